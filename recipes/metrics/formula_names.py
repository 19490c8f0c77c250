"""Commands that draw one symbol and take no argument: the only ones that TeX gets out of a formula's own text."""

# LaTeX's, amsmath's and amssymb's
_MATHEMATICS = """
aleph alpha amalg angle approx approxeq Arrowvert arrowvert ast asymp backepsilon backprime backsim backsimeq backslash
barwedge Bbbk because beta beth between bigcap bigcirc bigcup bigodot bigoplus bigotimes bigsqcup bigstar
bigtriangledown bigtriangleup biguplus bigvee bigwedge blacklozenge blacksquare blacktriangle blacktriangledown
blacktriangleleft blacktriangleright bot bowtie Box boxdot boxminus boxplus boxtimes bracevert bullet Bumpeq bumpeq Cap
cap cdot cdotp centerdot checkmark chi circ circeq circlearrowleft circlearrowright circledast circledcirc circleddash
circledR circledS clubsuit colon complement cong coprod Cup cup curlyeqprec curlyeqsucc curlyvee curlywedge
curvearrowleft curvearrowright dagger daleth dasharrow dashleftarrow dashrightarrow dashv ddagger ddots Delta delta
diagdown diagup Diamond diamond diamondsuit digamma div divideontimes Doteq doteq doteqdot dotplus doublebarwedge
doublecap doublecup Downarrow downarrow downdownarrows downharpoonleft downharpoonright ell emptyset epsilon eqcirc
eqsim eqslantgtr eqslantless equiv eta eth exists fallingdotseq Finv flat forall frown Game Gamma gamma ge geq geqq
geqslant gets gg ggg gggtr gimel gnapprox gneq gneqq gnsim gtrapprox gtrdot gtreqless gtreqqless gtrless gtrsim
gvertneqq hbar heartsuit hookleftarrow hookrightarrow hslash idotsint iff iiiint iiint iint Im imath impliedby implies
in infty injlim int intercal iota jmath Join kappa Lambda lambda land langle lbrace lceil ldotp le leadsto Leftarrow
leftarrow leftarrowtail leftharpoondown leftharpoonup leftleftarrows Leftrightarrow leftrightarrow leftrightarrows
leftrightharpoons leftrightsquigarrow leftthreetimes leq leqq leqslant lessapprox lessdot lesseqgtr lesseqqgtr lessgtr
lesssim lfloor lgroup lhd ll llcorner Lleftarrow lll llless lmoustache lnapprox lneq lneqq lnot lnsim Longleftarrow
longleftarrow Longleftrightarrow longleftrightarrow longmapsto Longrightarrow longrightarrow looparrowleft
looparrowright lor lozenge lrcorner Lsh ltimes lVert lvert lvertneqq maltese mapsto measuredangle mho mid models mp mu
multimap nabla natural ncong ne nearrow neg neq nexists ngeq ngeqq ngeqslant ngtr ni nLeftarrow nleftarrow
nLeftrightarrow nleftrightarrow nleq nleqq nleqslant nless nmid notin nparallel nprec npreceq nRightarrow nrightarrow
nshortmid nshortparallel nsim nsubseteq nsubseteqq nsucc nsucceq nsupseteq nsupseteqq ntriangleleft ntrianglelefteq
ntriangleright ntrianglerighteq nu nVDash nVdash nvDash nvdash nwarrow odot oint Omega omega ominus oplus oslash otimes
owns parallel partial perp Phi phi Pi pi pitchfork pm prec precapprox preccurlyeq preceq precnapprox precneqq precnsim
precsim prime prod projlim propto Psi psi rangle rbrace rceil Re Relbar relbar restriction rfloor rgroup rhd rho
Rightarrow rightarrow rightarrowtail rightharpoondown rightharpoonup rightleftarrows rightleftharpoons rightrightarrows
rightsquigarrow rightthreetimes risingdotseq rmoustache Rrightarrow Rsh rtimes rVert rvert searrow setminus sharp
shortmid shortparallel Sigma sigma sim simeq smallfrown smallint smallsetminus smallsmile smile spadesuit
sphericalangle sqcap sqcup sqsubset sqsubseteq sqsupset sqsupseteq square star Subset subset subseteq subseteqq
subsetneq subsetneqq succ succapprox succcurlyeq succeq succnapprox succneqq succnsim succsim sum Supset supset
supseteq supseteqq supsetneq supsetneqq surd swarrow tau therefore Theta theta thickapprox thicksim times to top
triangle triangledown triangleleft trianglelefteq triangleq triangleright trianglerighteq twoheadleftarrow
twoheadrightarrow ulcorner unlhd unrhd Uparrow uparrow Updownarrow updownarrow upharpoonleft upharpoonright uplus
Upsilon upsilon upuparrows urcorner varbigtriangledown varbigtriangleup varDelta varepsilon varGamma varinjlim varkappa
varLambda varliminf varlimsup varnothing varOmega varPhi varphi varPi varpi varprojlim varpropto varPsi varrho varSigma
varsigma varsubsetneq varsubsetneqq varsupsetneq varsupsetneqq varTheta vartheta vartriangle vartriangleleft
vartriangleright varUpsilon varXi Vdash vDash vdash vdots vee veebar Vert vert Vvdash wedge wp wr Xi xi yen zeta
"""
# upgreek's
_UPRIGHT = """
Updelta Upgamma Uplambda Upomega Upphi Uppi Uppsi Upsigma Uptheta Upupsilon Upxi upalpha upbeta upchi updelta upepsilon
upeta upgamma upiota upkappa uplambda upmu upnu upomega upphi uppi uppsi uprho upsigma uptau uptheta upupsilon
upvarepsilon upvarphi upvarpi upvartheta upxi upzeta
"""
# of a text
_TEXT = """
AA aa AE ae copyright dag ddag i j L l lq O o OE oe P pounds rq S ss textasciicircum textasciitilde
textasteriskcentered textbackslash textbar textbraceleft textbraceright textbullet textcent textcopyright textdagger
textdaggerdbl textdegree textdollar textemdash textendash texteuro textexclamdown textgreater textless textmu textohm
textonehalf textonequarter textordfeminine textordmasculine textparagraph textperiodcentered textpm textquestiondown
textquotedblleft textquotedblright textquoteleft textquoteright textquotesingle textregistered textsection textsterling
textthreequarters texttimes texttrademark textunderscore textvisiblespace textyen
"""
_CHARACTERS = "{ } | % & $ # _"

TEXT_SYMBOLS = frozenset(f"\\{name}" for name in _TEXT.split())
SYMBOLS = TEXT_SYMBOLS.union(f"\\{name}" for name in (_MATHEMATICS + _UPRIGHT + _CHARACTERS).split())
