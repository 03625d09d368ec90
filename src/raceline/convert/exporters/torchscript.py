"""Write a TorchScript archive's graph as JSON and its tensors as one plain file; runs in a child process.

Needs only torch. The archive is opened by torch's own TorchScript loader, which builds no Python objects. The
graph is inlined, not optimised; the module's attributes that it reads are listed beside it.
"""

import json
import sys
from pathlib import Path
from typing import Any

_ALIGNMENT = 64


class Tensors:
    """The file of tensors: raw little-endian elements, one tensor after another."""

    def __init__(self, path: Any) -> None:
        self.file = path.open("wb")
        self.rows: list[list[Any]] = []
        self.seen: dict[Any, tuple[int, Any]] = {}

    def add(self, tensor: Any) -> Any:
        """Write a tensor once; its row number."""
        import torch

        tensor = tensor.detach()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
            kind = str(tensor.dtype if tensor.layout == torch.strided else tensor.layout)
            return {"strange": f"a {kind} tensor"}
        tensor = tensor.cpu()
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)
        if tensor.numel() and key in self.seen:
            return {"tensor": self.seen[key][0]}
        plain = tensor.contiguous()
        self.file.write(bytes(-self.file.tell() % _ALIGNMENT))
        row = [str(plain.dtype).removeprefix("torch."), list(plain.shape), self.file.tell()]
        if plain.numel():
            self.file.write(memoryview(plain.reshape(-1).view(torch.uint8).numpy()))
        self.seen[key] = (len(self.rows), tensor)  # kept, so that no other tensor takes its place in memory
        self.rows.append(row)
        return {"tensor": len(self.rows) - 1}


class Writer:
    """Turns a method's graph into plain values."""

    def __init__(self, module: Any, tensors: Any) -> None:
        self.tensors = tensors
        self.objects: dict[str, tuple[str, Any]] = {}  # path -> ScriptModule or other script object
        self.attributes: dict[str, Any] = {}
        self.module = module
        self.count = 0

    def graph(self, graph: Any) -> dict[str, Any]:
        """The whole graph, with the attributes that it reads."""
        inputs = list(graph.inputs())
        self.objects[inputs[0].debugName()] = ("", self.module._c)
        block = self.block(graph, [self.value(v) for v in inputs], list(graph.outputs()))
        return {"block": block, "attributes": self.attributes}

    def block(self, block: Any, inputs: Any, outputs: Any) -> dict[str, Any]:
        """Nodes in order, what comes in and what goes out."""
        nodes = [self.node(node) for node in block.nodes()]
        return {"inputs": inputs, "nodes": nodes, "outputs": [v.debugName() for v in outputs]}

    def node(self, node: Any) -> dict[str, Any]:
        """One node."""
        kind = node.kind()
        self.count += 1
        plain = {
            "op": kind,
            "name": f"{kind.rpartition('::')[2]}_{self.count}",
            "inputs": [v.debugName() for v in node.inputs()],
            "outputs": [self.value(v) for v in node.outputs()],
        }
        if kind == "prim::Constant":
            plain["value"] = self.constant(node)
        elif kind in {"prim::GetAttr", "prim::SetAttr"}:
            plain["attribute"] = self.attribute(node)
        elif kind == "prim::isinstance":
            plain["types"] = [str(t) for t in node.tys("types")]
        elif kind == "prim::TupleSlice":
            plain["value"] = [node.i("beg"), node.i("end")]
        else:
            schema = node.schema()
            plain["overload"] = schema[: schema.find("(")].rpartition("::")[2].partition(".")[2]
        plain["blocks"] = [
            self.block(b, [self.value(v) for v in b.inputs()], list(b.outputs())) for b in node.blocks()
        ]
        return plain

    def value(self, value: Any) -> Any:
        """A value's name and type."""
        return [value.debugName(), str(value.type().annotation_str)]

    def constant(self, node: Any) -> Any:
        """What a constant holds."""
        output = node.output()
        if output.type().kind() == "FunctionType":
            return {"strange": "a function"}
        if output.type().kind() == "NoneType" or not node.hasAttribute("value"):
            return None
        return self.plain(output.toIValue())

    def attribute(self, node: Any) -> Any:
        """The path of an attribute, once its value is listed; "" for one of no module."""
        import torch

        owner, name = next(iter(node.inputs())).debugName(), node.s("name")
        if owner not in self.objects:
            return ""
        path, module = self.objects[owner]
        full = f"{path}.{name}".lstrip(".")
        try:
            found = module.getattr(name)
        except RuntimeError as error:
            self.attributes[full] = {"strange": str(error).splitlines()[0]}
            return full
        if isinstance(found, torch._C.ScriptObject) and isinstance(found, torch._C.ScriptModule):
            if node.kind() == "prim::GetAttr":
                self.objects[node.output().debugName()] = (full, found)
            self.attributes[full] = {"module": full}
        else:
            self.attributes[full] = self.plain(found)
        return full

    def plain(self, value: Any) -> Any:
        """A value as JSON takes it."""
        import torch

        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return {"float": repr(value)}
        if isinstance(value, torch.Tensor):
            return self.tensors.add(value)
        if isinstance(value, torch.device):
            return str(value)
        if isinstance(value, tuple):
            return {"tuple": [self.plain(item) for item in value]}
        if isinstance(value, list):
            return {"list": [self.plain(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[self.plain(k), self.plain(v)] for k, v in value.items()]}
        return {"strange": f"a {type(value).__name__}"}


def export(request: Any) -> dict[str, Any]:
    """Do what the request asks; the answer."""
    import torch

    folder = Path(request["folder"])
    try:
        module = torch.jit.load(request["path"], map_location="cpu").eval()
    except Exception as error:  # noqa: BLE001  torch raises what its many parts raise
        lines = [line for line in str(error).splitlines() if line.strip()]
        what = lines[0][:500] if lines else type(error).__name__
        return {"error": what, "next_step": "Save it again with torch.jit.save."}
    methods = list(module._c._method_names())
    if request["method"] not in methods:
        return {"methods": methods}
    graph = module._c._get_method(request["method"]).graph.copy()
    torch._C._jit_pass_inline(graph)
    tensors = Tensors(folder / "tensors.bin")
    found = Writer(module, tensors).graph(graph)
    tensors.file.close()
    found["tensors"] = tensors.rows
    (folder / "graph.json").write_text(json.dumps(found), encoding="utf-8")
    return {"torch": torch.__version__}


def main() -> None:
    """Read the request from standard input; write the answer."""
    request = json.load(sys.stdin)
    try:
        answer = export(request)
    except ModuleNotFoundError as error:
        answer = {"missing": error.name or "torch"}
    except Exception as error:  # noqa: BLE001  torch raises what its many parts raise
        answer = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
