"""Markdown's tables of pipes as HTML, row by row, as OmniDocBench turns them.

Every row becomes a table of its own, and neighbouring ones are joined. The row under the head is known by its dashes
or colons; so is, then, any other line of a table with a colon or three dashes in it, and it is lost. That is the
benchmark's.
"""

import re

_ROW = re.compile(r"\|\s*.*?\s*\|\n", re.DOTALL)
_TABLE = re.compile(r"<table>[\s\S]*?</table>")
_COMMENT = re.compile(r"<!--[\s\S]*?-->")
_FRAME = re.compile(r"</?t(able|head|body)>")
_RULER = re.compile(r":|---")


def has_pipe_table(text: str) -> bool:
    """Whether there are two rows at least."""
    return len(_ROW.findall(text + "\n")) >= 2


def pipes_to_html(text: str) -> str:
    """Replace the rows by joined HTML tables."""
    text = text.replace("\r", "") + "\n"
    for row in _ROW.findall(text):
        text = text.replace(row, _row_to_html(row), 1)
    text = _join(text)
    return text.replace("<table>", '<table border="1" >').replace("<td>", '<td colspan="1" rowspan="1">')


def _row_to_html(rows: str) -> str:
    head, *others = [row.strip() for row in rows.strip().split("\n")]
    body = "".join(_tr(row, "td") for row in others[1:])
    return f"<table>\n  <thead>\n{_tr(head, 'th')}  </thead>\n  <tbody>\n{body}  </tbody>\n</table>\n"


def _tr(row: str, tag: str) -> str:
    cells = "".join(f"      <{tag}>{cell.strip()}</{tag}>\n" for cell in row.split("|")[1:-1])
    return f"    <tr>\n{cells}    </tr>\n"


def _join(text: str) -> str:
    """Make one table of those that follow one another without a line between them."""
    output, block, inside, last = [], "", False, ""
    for line in text.split("\n"):
        if "<table>" in line:
            inside = True
            block += last
        elif inside:
            if not _RULER.search(last) and "</thead>" not in last:
                block += "\n" + last
            if "</table>" in last:
                inside = False
                output.append(_merged(block))
                block = ""
        else:
            output.append(last)
        last = line
    if last:
        output.append(_merged(f"{block}\n{last}") if inside or "</table>" in last else last)
    return "\n".join(output)


def _merged(block: str) -> str:
    lines = []
    for table in _TABLE.findall(_COMMENT.sub("", block)):
        rows = [
            line.replace("<th>", "<td>").replace("</th>", "</td>") if "<th>" in line else line
            for line in table.split("\n")
        ]
        rows = [line for line in rows if not _FRAME.search(line)]
        if len(rows) > 2:
            lines += rows
    return "\n\n<table>\n" + "\n".join(lines) + "\n</table>\n\n"
