"""What a build has come to, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthlm_ros.export.build import BuildReport
    from depthlm_ros.export.trt_builder import PlanReport


def report_text(report: BuildReport) -> str:
    """Graphs, sizes, precision, time, memory and parity of an export."""
    manifest, precision = report.manifest, report.manifest["precision"]
    camera = manifest["camera"]
    head = f", depth head {precision['head']}" if precision["head"] else ", no depth head"
    kept = "" if manifest["only_depth"] else ", keys and values as the backbone"
    sizes_mb = {name: (report.folder / name).stat().st_size / 1e6 for name in manifest["files"]}
    lines = [
        f"engine     {manifest['name']} in {report.folder}",
        f"camera     {camera['width_px']} x {camera['height_px']}, fx {camera['fx_px']:g}, seen as "
        + " and ".join(f"{w} x {h}" for w, h in manifest["canvases_px"]),
        f"precision  backbone {precision['backbone']}{head}{kept}",
        f"opset      {manifest['opset']}",
        *(f"  {name:24} {size_mb:10.2f} MB" for name, size_mb in sizes_mb.items()),
        f"time       {', '.join(f'{name} {seconds:.1f} s' for name, seconds in report.seconds.items())}",
        f"memory     weights {report.weight_bytes / 1e9:.3f} GB, at most {report.peak_bytes / 1e9:.3f} GB in use",
        f"parity     {_parity_text(manifest['parity'])}",
    ]
    return "\n".join(lines)


def plan_text(reports: Sequence[PlanReport]) -> str:
    """Plans, whether they were built now, size and time."""
    return "\n".join(
        f"{report.plan}: {f'built in {report.seconds:.0f} s' if report.built else 'fits as it is'}, "
        f"{report.plan_bytes / 1e6:.1f} MB{f', {report.layers} layers' if report.built else ''}"
        for report in reports
    )


def _parity_text(parity: dict[str, Any]) -> str:
    if "not_measured" in parity:
        return f"not measured: {parity['not_measured']}"
    words = []
    if parity["depth_mean"] is not None:
        words.append(
            f"depth differs from torch by {parity['depth_mean']:.1e} on average, {parity['depth_max']:.1e} most"
        )
    if parity["same_token"] is not None:
        words.append(f"{'the same' if parity['same_token'] else 'ANOTHER'} token after a question")
    return "; ".join(words)
