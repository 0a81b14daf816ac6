# SPDX-License-Identifier: Apache-2.0
"""Finds every name of an extension module that some source files use, and looks it up in the module.

    python extension_names.py MODULE LOADER FILE...     prints {"used": [...], "missing": [...]} as JSON

MODULE is imported; LOADER is the parameter or local name that stands for it in the files ("trt"). The names are found
in the syntax trees of the files. Types follow assignments, calls of the files' own functions and methods, loops, and
the return types in the docstrings of the module. It runs in its own process, with the module on its path.
"""

import ast
import importlib
import inspect
import json
import re
import sys
from pathlib import Path

# Names of C++ types in docstrings of the ONNX parser -> their names in Python.
CPLUSPLUS = {"IParserError": "ParserError"}


class Known:
    """What is known about an expression.

    kind: "module", "class", "instance" (value: the class), "method", "list" (value: Known of its elements), or "own
    ..." for classes, functions and methods of the files themselves.
    """

    def __init__(self, kind, value, owner=None):
        self.kind, self.value, self.owner = kind, value, owner


class Names:
    """The names that were found. used, missing: as "Class.name". classes: own class -> (tree, methods, attributes)."""

    def __init__(self, module, loader):
        self.module, self.loader = module, loader
        self.used, self.missing = set(), set()
        self.classes, self.functions, self.running = {}, {}, set()

    def read(self, trees):
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
                    self.classes[node.name] = (node, methods, {})
            self.functions |= {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        # A method that sets an attribute can be read later than a method that uses it.
        for _ in range(3):
            for name, (_, methods, _) in self.classes.items():
                for method in methods.values():
                    self.run(method, name)
            for function in self.functions.values():
                self.run(function, None)

    def run(self, function, owner, closure=None):
        """Follows a function. Returns Known of its return value, or None."""
        if (owner, function.name) in self.running:
            return None
        self.running.add((owner, function.name))
        scope = dict(closure or {}) | {"self": Known("own", owner)}
        for argument in (*function.args.args, *function.args.kwonlyargs):
            annotation = argument.annotation
            if argument.arg == self.loader:
                scope[self.loader] = Known("module", self.module)
            elif isinstance(annotation, ast.Name) and annotation.id in self.classes:
                scope[argument.arg] = Known("own", annotation.id)
        returned = self.block(function.body, scope)
        self.running.discard((owner, function.name))
        return returned

    def block(self, statements, scope):
        returned = None
        for statement in statements:
            found = self.statement(statement, scope)
            returned = returned or found
        return returned

    def statement(self, node, scope):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            return self.inner(node, scope)
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "tensorrt":
                    scope["tensorrt"] = Known("module", self.module)
            return None
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cuda"):
            for alias in node.names:
                scope[alias.name] = Known("module", self.module)
            return None
        if isinstance(node, ast.Return):
            return self.value(node.value, scope)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self.assign(target, node.value, scope)
            return None
        if isinstance(node, (ast.For, ast.AsyncFor)):
            self.bind(node.target, self.element(self.value(node.iter, scope)), scope)
        returned = None
        for name, field in ast.iter_fields(node):
            parts = field if isinstance(field, list) else [field]
            for part in parts:
                if isinstance(part, ast.stmt):
                    returned = self.statement(part, scope) or returned
                elif isinstance(part, ast.ExceptHandler):
                    returned = self.block(part.body, scope) or returned
                elif isinstance(part, ast.withitem):
                    self.value(part.context_expr, scope)
                elif isinstance(part, ast.expr) and name != "target":
                    self.value(part, scope)
        return returned

    def inner(self, node, scope):
        """Follows a function or class inside a function, with the names around it."""
        if isinstance(node, ast.FunctionDef):
            self.run(node, getattr(scope.get("self"), "value", None), scope)
            return None
        bases = [self.value(base, scope) for base in node.bases]
        for base in bases:
            for item in node.body if base and base.kind == "class" else ():
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    self.look_up(base.value, item.name)
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                self.run(item, node.name, scope)
        return None

    def assign(self, target, value, scope):
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=False):
                self.assign(one, other, scope)
            return
        known = self.value(value, scope)
        if isinstance(target, ast.Attribute):
            self.value(target, scope)  # a property that is set must exist
            holder = self.value(target.value, scope)
            if holder and holder.kind == "own" and holder.value in self.classes and known:
                self.classes[holder.value][2].setdefault(target.attr, known)
        self.bind(target, known, scope)

    def bind(self, target, known, scope):
        if isinstance(target, ast.Name) and known:
            scope[target.id] = known

    def element(self, known):
        return known.value if known and known.kind == "list" else None

    def value(self, node, scope):
        if node is None:
            return None
        if isinstance(node, ast.Name):
            if node.id in self.classes:
                return Known("own class", node.id)
            if node.id in self.functions and node.id not in scope:
                return Known("own function", self.functions[node.id])
            return scope.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(self.value(node.value, scope), node.attr)
        if isinstance(node, ast.Call):
            return self.call(node, scope)
        if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)):
            inside = dict(scope)
            for generator in node.generators:
                self.bind(generator.target, self.element(self.value(generator.iter, inside)), inside)
                for condition in generator.ifs:
                    self.value(condition, inside)
            if isinstance(node, ast.DictComp):
                self.value(node.key, inside), self.value(node.value, inside)
                return None
            element = self.value(node.elt, inside)
            return Known("list", element) if element else None
        if isinstance(node, ast.Lambda):
            return self.value(node.body, dict(scope)) and None
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                self.value(part, scope)
        return None

    def attribute(self, holder, name):
        if holder is None:
            return None
        if holder.kind == "own":
            methods, attributes = self.classes[holder.value][1:] if holder.value in self.classes else ({}, {})
            if name in methods:
                return Known("own method", methods[name], holder.value)
            return attributes.get(name)
        if holder.kind in ("module", "class", "instance"):
            found = self.look_up(holder.value, name)
            if inspect.isclass(found):
                return Known("class", found)
            if callable(found):
                return Known("method", found)
        return None

    def call(self, node, scope):
        called = self.value(node.func, scope)
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.value(part, scope)
        if called is None:
            return None
        if called.kind == "own class":
            return Known("own", called.value)
        if called.kind == "own function":
            return self.run(called.value, None)
        if called.kind == "own method":
            return self.run(called.value, called.owner)
        if called.kind == "class":
            self.check_arguments(called.value.__init__, called.value.__name__, node)
            return Known("instance", called.value)
        if called.kind == "method":
            self.check_arguments(called.value, called.value.__name__, node)
            return self.returned(called.value)
        return None

    def look_up(self, holder, name):
        path = f"{holder.__name__}.{name}" if inspect.isclass(holder) else name
        self.used.add(path)
        if not hasattr(holder, name):
            self.missing.add(path)
            return None
        return getattr(holder, name)

    def check_arguments(self, function, name, node):
        """Checks that at least one overload has all keywords as parameters, and enough parameters for all arguments."""
        overloads = [signature for signature in signatures(function) if "*args" not in signature]
        keywords = {keyword.arg for keyword in node.keywords if keyword.arg}
        self.used |= {f"{name}({keyword}=)" for keyword in keywords}
        starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        if not overloads or starred:
            return
        if not any(keywords <= set(names) and len(node.args) + len(keywords) <= len(names) for names in overloads):
            given = ", ".join([*["_"] * len(node.args), *(f"{keyword}=" for keyword in sorted(keywords))])
            self.missing.add(f"{name}({given})")

    def returned(self, function):
        for text in re.findall(r"->\s*([\w.:]+)", function.__doc__ or ""):
            name = re.split(r"[.:]+", text)[-1]
            found = getattr(self.module, CPLUSPLUS.get(name, name), None)
            if inspect.isclass(found):
                return Known("instance", found)
        return None


def signatures(function):
    """Returns the parameter names of every overload in a docstring of pybind11, without self."""
    found = []
    for arguments in re.findall(r"^\s*(?:\d+\. )?\w+\((.*)\) ->", function.__doc__ or "", re.MULTILINE):
        names = [re.match(r"[*\w]+", part.strip()) for part in split(arguments)]
        found.append([name[0] for name in names if name and name[0] != "self"])
    return found


def split(arguments):
    """Splits a text at the commas that are not inside brackets."""
    parts, depth = [""], 0
    for letter in arguments:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def main(module, loader, *files):
    names = Names(importlib.import_module(module), loader)
    names.read([ast.parse(Path(file).read_text()) for file in files])
    print(json.dumps({"used": sorted(names.used), "missing": sorted(names.missing)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
