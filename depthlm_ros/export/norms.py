"""The form of a norm that runtimes know."""

from __future__ import annotations

from onnxscript import ir, optimizer


def divide_by_roots(model: ir.Model) -> None:
    """Writes x * reciprocal(sqrt(y)) as x / sqrt(y): ONNX Runtime makes one operator of a root-mean-square norm in the
    second form only."""
    for node in model.graph.all_nodes():
        if node.op_type != "Mul":
            continue
        for index, factor in enumerate(node.inputs):
            root = _reciprocal_of_root(factor)
            if root is not None:
                other = node.inputs[1 - index]
                node.op_type = "Div"
                node.replace_input_with(0, other)
                node.replace_input_with(1, root)
                break
    optimizer.remove_unused_nodes(model)


def _reciprocal_of_root(value: ir.Value | None) -> ir.Value | None:
    """y of reciprocal(y) where y is a square root, else None."""
    reciprocal = None if value is None else value.producer()
    if reciprocal is None or reciprocal.op_type != "Reciprocal":
        return None
    root = reciprocal.inputs[0]
    above = None if root is None else root.producer()
    return root if above is not None and above.op_type == "Sqrt" else None
