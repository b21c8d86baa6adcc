"""README and the pages of docs, taken apart: links, commands, blocks of Python."""

import pathlib
import re
import shlex

ROOT = pathlib.Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)
EXAMPLE = re.compile(r"<!-- example: (\w+) -->\n```python\n(.*?)```", re.S)
COMMENT = re.compile(r"<!--.*?-->", re.S)
LINK = re.compile(
    r"!?\[[^\]]*\]\(([^)\s]+)\)|<(?:img|a)[^>]* (?:src|href)=\"([^\"]+)\""
)
HEADING = re.compile(r"^#+ (.*)$", re.M)
PYTHON = re.compile(r"(?:^|/)python3?$")


def pages():
    """Every page for readers, by its path in the repository."""
    front = ["README.md", "BUILD_NOTES.md", "CHANGELOG.md", "CONTRIBUTING.md"]
    files = [ROOT / name for name in front] + sorted((ROOT / "docs").rglob("*.md"))
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


def examples():
    """The Python blocks that are run, by the name in the comment before them."""
    found = {}
    for page, text in pages().items():
        for name, code in EXAMPLE.findall(text):
            assert name not in found, (page, name)
            found[name] = code
    return found


def prose(text):
    """A page without its blocks of code, comments and inline code."""
    text = COMMENT.sub("", FENCE.sub("", text))
    return re.sub(r"`[^`]*`", "", text)


def links(text):
    """Where a page's links and pictures lead."""
    return [a or b for a, b in LINK.findall(COMMENT.sub("", FENCE.sub("", text)))]


def anchors(text):
    """What a link may name after ``#``: headings and explicit anchors."""
    found = set(re.findall(r'<a id="([^"]+)">', text))
    for title in HEADING.findall(FENCE.sub("", text)):
        title = re.sub(r"[^\w\s-]", "", title.replace("`", "").lower())
        found.add(re.sub(r"\s", "-", title.strip()))
    return found


def code(text):
    """What is typed: blocks, with folded lines as one, and code in sentences."""
    blocks = [code for _, kind, code in FENCE.findall(text) if kind in ("", "bash")]
    inline = re.findall(r"`([^`]*)`", FENCE.sub("", COMMENT.sub("", text)))
    return [re.sub(r"\\\n\s*", " ", x) for x in blocks], inline


def targets(text):
    """What pages tell to make, in blocks and in sentences."""
    blocks, inline = code(text)
    lines = [line for block in blocks for line in re.split(r"\n|&&", block)] + inline
    called = re.compile(r"\s*(?:\w+=\S+ +)*make +([^#]*)")
    found = [called.match(line) for line in lines]
    words = [word for match in found if match for word in match[1].split()]
    return [word for word in words if "=" not in word and not word.startswith("-")]


def commands(text):
    """The Python commands of a page, as lists of words; those in sentences too."""
    blocks, inline = code(text)
    lines = [x for block in blocks for x in re.split(r"\n|&&|;(?= )|'$", block)]
    lines += [re.sub(r"\s+", " ", x) for x in inline]
    found = []
    for line in lines:
        line = line.replace("'", "") if line.count("'") % 2 else line
        if "python" not in line:
            continue
        words = shlex.split(line, comments=True)
        starts = [i for i, word in enumerate(words) if PYTHON.search(word)]
        if starts and len(words) > starts[0] + 1:
            found.append(words[starts[0] + 1 :])
    return found
