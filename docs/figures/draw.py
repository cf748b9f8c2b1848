"""Draw the pictures of the documentation: the flow, in two languages, and the architecture.

Run it after a change of the words or places below: ``python docs/figures/draw.py``.
"""

from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

FOLDER = Path(__file__).parent
_FONT = "system-ui, 'Segoe UI', 'PingFang SC', 'Noto Sans CJK SC', 'Microsoft YaHei', sans-serif"
_STYLE = f"""\
  text {{ font: 14px {_FONT}; fill: #1f2328; text-anchor: middle; }}
  .small {{ font-size: 12px; fill: #57606a; }}
  .left {{ text-anchor: start; }}
  .lane {{ font-weight: 600; text-anchor: start; }}
  .file {{ fill: #ffffff; stroke: #6e7781; }}
  .cpu {{ fill: #eef3fb; stroke: #4c72b0; }}
  .gpu {{ fill: #fbeadb; stroke: #c4681f; }}
  .gate {{ fill: #fdeeee; stroke: #b3383c; stroke-width: 2; }}
  .group {{ fill: none; stroke: #6e7781; stroke-dasharray: 4 4; }}
  .line {{ fill: none; stroke: #57606a; stroke-width: 1.4; marker-end: url(#tip); }}
  .tip {{ fill: #57606a; }}
  .paper {{ fill: #ffffff; }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #e6edf3; }} .small {{ fill: #9da7b1; }} .paper {{ fill: #0d1117; }}
    .file {{ fill: #161b22; stroke: #8b949e; }} .cpu {{ fill: #16233a; stroke: #7ea6e0; }}
    .gpu {{ fill: #33210f; stroke: #e39b5a; }} .gate {{ fill: #351a1c; stroke: #f07178; }}
    .group {{ stroke: #8b949e; }} .line {{ stroke: #9da7b1; }} .tip {{ fill: #9da7b1; }}
  }}"""


@dataclass(frozen=True)
class Box:
    """A labelled box; ``x`` and ``y`` are its left upper corner, in pixels."""

    label: str
    kind: str
    x: float
    y: float
    width: float
    height: float = 44

    def svg(self) -> str:
        """Return the box; a line break in the label makes two lines."""
        radius = 20 if self.kind == "file" else 5
        lines = self.label.split("\n")
        middle = self.y + self.height / 2 + 5
        rows = [
            f'<text x="{self.x + self.width / 2:g}" '
            f'y="{middle + 16 * (row - (len(lines) - 1) / 2):g}">{escape(line)}</text>'
            for row, line in enumerate(lines)
        ]
        return (
            f'<rect class="{self.kind}" x="{self.x:g}" y="{self.y:g}" width="{self.width:g}" '
            f'height="{self.height:g}" rx="{radius}"/>{"".join(rows)}'
        )


def _row(y: float, x: float, gap: float, boxes: list[tuple[str, str, float]]) -> list[Box]:
    """Place boxes of (label, kind, width) side by side from ``x`` on."""
    placed = []
    for label, kind, width in boxes:
        placed.append(Box(label, kind, x, y, width))
        x += width + gap
    return placed


def _arrows(boxes: list[Box]) -> list[str]:
    pairs = pairwise(boxes)
    return [
        f'<path class="line" d="M{a.x + a.width:g} {a.y + a.height / 2:g}H{b.x - 2:g}"/>'
        for a, b in pairs
    ]


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(words)}</text>'


def _page(title: str, width: int, height: int, parts: list[str]) -> str:
    body = "\n".join(parts)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">
<title>{escape(title)}</title>
<style>
{_STYLE}
</style>
<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path class="tip" d="M0 0L8 4L0 8Z"/></marker>
<rect class="paper" width="{width}" height="{height}" rx="8"/>
{body}
</svg>
"""


FLOW_WORDS = {
    "flow.svg": (
        "From raw captions to a verdict",
        ("Data", "Training", "Answers", "for each run: an arm with a training seed"),
        ("raw\nJSONL", "validate\nsplit", "filter", "caption", "filter", "merge\nmatch ids"),
        ("training\nset", "for each shard"),
        ("pretrain\nprojector", "finetune\nLoRA", "check\nadapter", "merge\nLoRA", "parity\ngate"),
        ("check-\npoint", "answer\nin shards", "gather\nall or stop", "score", "compare\narms"),
        ("report\nverdict", "file", "CPU", "GPU", "stops the run if it fails"),
        "controls, too: a blank picture, a wrong picture, the most frequent answer",
    ),
    "flow.zh-CN.svg": (
        "从原始描述到结论",
        ("数据", "训练", "答题", "每次运行：一个实验臂 + 一个训练种子"),
        ("原始\nJSONL", "校验\n切分", "过滤", "重写描述", "过滤", "合并\n对齐 id"),
        ("训练集", "逐分片"),
        ("预训练\n投影层", "微调\nLoRA", "检查\n适配器", "合并\nLoRA", "一致性\n关卡"),
        ("检查点", "分片\n答题", "汇总\n缺一即停", "评分", "比较\n各实验臂"),
        ("报告\n结论", "文件", "CPU", "GPU", "不通过即停止"),
        "对照：空白图片、错配图片、最常见答案",
    ),
}


def draw_flow(name: str) -> str:
    """Return the flow of the pipeline, with the words of ``FLOW_WORDS[name]``."""
    title, lanes, data, data_end, training, answers, ends, controls = FLOW_WORDS[name]
    kinds = ("file", "cpu", "cpu", "gpu", "cpu", "gate")
    steps = [(label, kind, 92) for label, kind in zip(data, kinds, strict=True)]
    first = _row(52, 28, 28, [*steps, (data_end[0], "file", 92)])
    kinds = ("gpu", "gpu", "gate", "cpu", "gate")
    steps = [(label, kind, 92) for label, kind in zip(training, kinds, strict=True)]
    second = _row(176, 148, 28, [*steps, (answers[0], "file", 92)])
    kinds = ("gpu", "gate", "cpu", "gate")
    steps = [(label, kind, 92) for label, kind in zip(answers[1:], kinds, strict=True)]
    third = _row(300, 148, 28, [*steps, (ends[0], "file", 92)])
    parts = [_text(28, 34, lanes[0], "lane"), _text(28, 158, lanes[1], "lane")]
    parts += [_text(28, 282, lanes[2], "lane"), _text(148, 158, lanes[3], "small left")]
    parts += [_text(148, 282, controls, "small left")]
    left, right = first[2], first[4]
    width = right.x + right.width - left.x + 16
    parts.append(f'<rect class="group" x="{left.x - 8:g}" y="42" width="{width:g}" height="64"/>')
    parts.append(_text(first[3].x + 46, 34, data_end[1], "small"))
    for row in (first, second, third):
        parts += _arrows(row)
        parts += [box.svg() for box in row]
    parts.append(_turn(first[-1], second[0], 132))
    parts.append(_turn(second[-1], third[0], 256))
    parts += _legend(ends[1:], 376)
    return _page(title, 856, 404, parts)


def _turn(end: Box, start: Box, y: float) -> str:
    """Return an arrow from the end of a lane to the start of the next, at height ``y``."""
    x, to = end.x + end.width / 2, start.x + start.width / 2
    return (
        f'<path class="line" d="M{x:g} {end.y + end.height:g}V{y:g}H{to - 72:g}'
        f'V{start.y + 22:g}H{start.x - 2:g}"/>'
    )


def _legend(words: tuple[str, ...], y: float) -> list[str]:
    parts = []
    for place, (kind, word) in enumerate(zip(("file", "cpu", "gpu", "gate"), words, strict=True)):
        x = 148 + 110 * place
        parts.append(f'<rect class="{kind}" x="{x}" y="{y - 11:g}" width="20" height="14" rx="4"/>')
        parts.append(_text(x + 28, y, word, "small left"))
    return parts


# A package imports from the tiers below its own, never from beside or above.
TIERS = (
    ("planning",),
    ("config",),
    ("compare",),
    ("caption", "quality", "train", "evaluate", "demo", "fetch"),
    ("curate", "mgm", "cluster"),
)
_BASE = "io, manifest, hashing, shards, settings, errors, cli, launch, leases, perf"


def draw_architecture() -> str:
    """Return the layers of the repository, from what people write to what is generated."""
    parts = []
    layers = (
        ("what you write", "config/*.yaml, config/*.tsv, config/recipes/, profiles/", "file"),
        ("wiring", "Snakefile, rules/*.smk: inputs, outputs, resources", "cpu"),
        ("commands", "scripts/<verb_noun>.py: one command line a rule, usable alone", "cpu"),
    )
    for place, (name, content, kind) in enumerate(layers):
        y = 24 + 68 * place
        parts += [_text(24, y + 27, name, "lane"), Box(content, kind, 170, y, 660).svg()]
        parts.append(f'<path class="line" d="M500 {y + 44}V{y + 66}"/>')
    parts.append(_text(24, 252, "library", "lane"))
    parts.append(_text(24, 272, "scripts/recap/", "small left"))
    bottom = 238 + 46 * (len(TIERS) + 1)
    parts.append(f'<rect class="group" x="160" y="226" width="680" height="{bottom - 222}"/>')
    for row, tier in enumerate(TIERS):
        y, width = 238 + 46 * row, 660 / len(tier)
        boxes = [(name, "cpu", width - 10) for name in tier]
        parts += [Box(b.label, b.kind, b.x, y, b.width, 36).svg() for b in _row(y, 175, 10, boxes)]
    parts.append(Box(_BASE, "file", 175, bottom - 46, 650, 36).svg())
    parts.append(f'<path class="line" d="M500 {bottom + 4}V{bottom + 30}"/>')
    generated = "results/, resources/, logs/"
    parts += [
        _text(24, bottom + 59, "generated", "lane"),
        Box(generated, "file", 170, bottom + 32, 660).svg(),
    ]
    return _page("The layers of the repository", 860, bottom + 96, parts)


def drawings() -> dict[str, str]:
    """Return every picture by its file's name."""
    return {
        **{name: draw_flow(name) for name in FLOW_WORDS},
        "architecture.svg": draw_architecture(),
    }


if __name__ == "__main__":
    for file_name, svg in drawings().items():
        (FOLDER / file_name).write_text(svg, encoding="utf-8")
