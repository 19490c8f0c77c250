r"""What LaTeX's commands draw, by kind: the reader of formulas gives every command of a kind the same treatment."""

# ink of their own around an argument, whose tokens follow
ACCENTS = frozenset((
    "\\hat", "\\widehat", "\\tilde", "\\widetilde", "\\bar", "\\vec", "\\dot", "\\ddot", "\\dddot", "\\ddddot",
    "\\check", "\\breve", "\\acute", "\\grave", "\\mathring", "\\overline", "\\underline", "\\overbrace",
    "\\underbrace", "\\overrightarrow", "\\overleftarrow", "\\overleftrightarrow", "\\underrightarrow",
    "\\underleftarrow", "\\underleftrightarrow", "\\boxed", "\\cancel", "\\bcancel", "\\xcancel",
))  # fmt: skip
# ink of their own around an optional and a needed argument
WITH_OPTION = frozenset((
    "\\sqrt", "\\xrightarrow", "\\xleftarrow", "\\xleftrightarrow", "\\xRightarrow", "\\xLeftarrow", "\\xmapsto",
    "\\xhookrightarrow", "\\xhookleftarrow", "\\xlongequal",
))  # fmt: skip
# ink of their own over two arguments; sizes that differ by the place alone are one token
FRACTIONS = {
    "\\frac": "\\frac", "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac",
    "\\binom": "\\binom", "\\dbinom": "\\binom", "\\tbinom": "\\binom",
}  # fmt: skip
# the same between two halves of a group
INFIX = {"\\over": "\\frac", "\\choose": "\\binom", "\\atop": "\\atop"}
# no ink of their own over two arguments
STACKS = frozenset(("\\overset", "\\underset", "\\stackrel"))
# no ink of their own around one argument: what is written in their place
FONTS = {
    **{
        f"\\{name}": f"\\{name}"
        for name in (
            "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathbb", "mathcal", "mathfrak", "mathnormal",
            "boldsymbol", "mathop", "mathbin", "mathrel", "mathord", "mathopen", "mathclose", "mathpunct",
            "mathinner", "smash",
        )
    },
    "\\mathscr": "\\mathcal", "\\mathbfcal": "\\mathcal", "\\bm": "\\boldsymbol", "\\pmb": "\\boldsymbol",
    "\\symbf": "\\mathbf", "\\symbfit": "\\boldsymbol", "\\bold": "\\mathbf", "\\Bbb": "\\mathbb",
    "\\frak": "\\mathfrak", "\\symup": "\\mathrm", "\\symit": "\\mathit", "\\scr": "\\mathcal",
}  # fmt: skip
TEXTS = {
    **{
        f"\\{name}": f"\\{name}"
        for name in (
            "text", "textrm", "textbf", "textit", "textsf", "texttt", "textnormal", "textup", "textmd", "textsl",
            "textsc", "emph",
        )
    },
    "\\mbox": "\\text", "\\hbox": "\\text", "\\textsubscript": "\\text", "\\mathtext": "\\text",
}  # fmt: skip
# fonts and styles until the end of the group, and where scripts go: written as they are
SWITCHES = frozenset((
    "\\displaystyle", "\\textstyle", "\\scriptstyle", "\\scriptscriptstyle", "\\rm", "\\bf", "\\it", "\\cal", "\\sf",
    "\\tt", "\\mit", "\\hline", "\\limits", "\\nolimits", "\\displaylimits",
))  # fmt: skip
SPACES = frozenset((
    "\\,", "\\;", "\\:", "\\!", "\\>", "\\ ", "~", "\\quad", "\\qquad", "\\enspace", "\\enskip", "\\thinspace",
    "\\medspace", "\\thickspace", "\\negthinspace", "\\negmedspace", "\\negthickspace", "\\mathstrut", "\\strut",
    "\\/",
))  # fmt: skip
# nothing is drawn, with so many arguments
DROPPED = {
    **dict.fromkeys(("\\nonumber", "\\notag", "\\boldmath", "\\unboldmath", "\\allowbreak", "\\nobreak", "\\hfill",
                     "\\hfil", "\\noindent", "\\centering", "\\par", "\\relax", "\\null", "\\protect", "\\space",
                     "\\tiny", "\\scriptsize", "\\footnotesize", "\\small", "\\normalsize", "\\large", "\\Large",
                     "\\lefteqn", "\\ensuremath", "\\-", "$", "\\(", "\\)", "\\[", "\\]", "\\@"), 0),
    **dict.fromkeys(("\\tag", "\\tag*", "\\label", "\\ref", "\\eqref", "\\color", "\\textcolor", "\\colorbox",
                     "\\hspace", "\\hspace*", "\\vspace", "\\vspace*", "\\mspace", "\\cline", "\\raisebox",
                     "\\hdotsfor", "\\fontsize"), 1),
    **dict.fromkeys(("\\rule", "\\setlength", "\\multicolumn", "\\multirow"), 2),
}  # fmt: skip
# nothing is drawn, and a length follows
LENGTHS = frozenset(("\\hskip", "\\vskip", "\\kern", "\\mkern", "\\mskip"))
PHANTOMS = frozenset(("\\phantom", "\\hphantom", "\\vphantom"))
# drawn as three dots
DOTS = frozenset((
    "\\dots", "\\ldots", "\\cdots", "\\hdots", "\\dotsc", "\\dotsb", "\\dotsm", "\\dotsi", "\\dotso", "\\mathellipsis",
    "\\textellipsis", "…", "⋯",
))  # fmt: skip
# functions are drawn as their letters; scripts of the second kind stand below and above
NAMES = frozenset((
    "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "arcsin", "arccos", "arctan", "ln", "lg",
    "log", "exp", "arg", "deg", "dim", "hom", "ker",
))  # fmt: skip
NAMES_WITH_LIMITS = frozenset(("lim", "max", "min", "sup", "inf", "limsup", "liminf", "det", "gcd", "Pr"))
SIZES = frozenset(f"\\{size}{side}" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r", "m"))

# environments by what they are drawn with, those with delimiters as these and a plain one
ENVIRONMENTS = {
    **dict.fromkeys(("align", "aligned", "split", "eqnarray", "flalign", "alignat", "alignedat"), "aligned"),
    **dict.fromkeys(("gather", "gathered", "multline", "equation", "displaymath", "math", "subequations"), "gathered"),
    **dict.fromkeys(("matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "Vmatrix"), "matrix"),
    **dict.fromkeys(("array", "tabular"), "array"),
    "smallmatrix": "smallmatrix", "cases": "matrix", "dcases": "matrix", "rcases": "matrix",
}  # fmt: skip
DELIMITERS = {
    "pmatrix": ("(", ")"), "bmatrix": ("[", "]"), "Bmatrix": ("\\{", "\\}"), "vmatrix": ("|", "|"),
    "Vmatrix": ("\\|", "\\|"), "cases": ("\\{", "."), "dcases": ("\\{", "."), "rcases": (".", "\\}"),
}  # fmt: skip
# optional arguments that say where something stands, as patterns, by what they follow
PLACES = {
    "\\smash": "[tb]", "\\cfrac": "[lcr]",
    **dict.fromkeys(("array", "tabular", "aligned", "alignedat", "gathered"), "[tbc]"),
    **dict.fromkeys(("matrix*", "pmatrix*", "bmatrix*", "Bmatrix*", "vmatrix*", "Vmatrix*", "smallmatrix*"), "[lcr]"),
}  # fmt: skip
_NUMBER = r"[-+]*(?:\d+[.,]?\d*|[.,]\d+)"
_UNIT = "(?:pt|em|ex|mm|cm|in|mu|px|pc|bp|dd|cc|sp)"
_LENGTHS = (
    r"\\(?:jot|(?:normal)?(?:baselineskip|lineskip)|(?:small|med|big)skipamount|(?:above|below)display(?:short)?skip|"
    r"parskip|parindent|arraycolsep|tabcolsep|(?:text|line|column)width|textheight)"
)
# the optional argument of a line break, as a pattern
LENGTH = f"{_NUMBER}{_UNIT}|(?:{_NUMBER}|-)?{_LENGTHS}"
# environments that are followed by an argument of their own
WITH_COLUMNS = frozenset(("array", "tabular", "alignat", "alignedat"))

# reaches beyond the formula: files, definitions, the document. TeX gets none but the commands of these lists and of
# formula_names; what has one of these is no formula
FORBIDDEN = frozenset((
    "\\input", "\\include", "\\openin", "\\openout", "\\read", "\\readline", "\\write", "\\immediate", "\\special",
    "\\def", "\\gdef", "\\edef", "\\xdef", "\\let", "\\futurelet", "\\global", "\\long", "\\newcommand",
    "\\renewcommand", "\\providecommand", "\\newenvironment", "\\DeclareMathOperator", "\\catcode", "\\csname",
    "\\expandafter", "\\usepackage", "\\documentclass", "\\shipout", "\\setbox", "\\box", "\\loop", "\\directlua",
    "\\pdfliteral", "\\includegraphics", "\\hoffset", "\\voffset", "\\dump", "\\batchmode", "\\errorstopmode",
    "\\scrollmode", "\\nonstopmode", "\\begingroup", "\\endgroup", "\\bgroup", "\\egroup", "\\stop", "\\endinput",
    "\\newpage", "\\clearpage", "\\halign", "\\valign", "\\noalign", "\\afterassignment", "\\aftergroup",
    "\\latelua", "\\luaexec", "\\luadirect", "\\typeout", "\\message", "\\scantokens", "\\newwrite", "\\newread",
))  # fmt: skip
