"""The package as a whole: names, types, exceptions, what is imported."""

import ast
import inspect
import pathlib
import subprocess
import sys

import betaedit
import betaedit._core as core

STUBS = ast.parse((pathlib.Path(betaedit.__file__).parent / "_core.pyi").read_text())


def public(names):
    return {name for name in names if not name.startswith("_")}


def test_the_stubs_have_every_name():
    classes = {node.name: node for node in STUBS.body if isinstance(node, ast.ClassDef)}
    functions = {node.name for node in STUBS.body if isinstance(node, ast.FunctionDef)}
    assert public(vars(core)) == set(classes) | functions
    for name, node in classes.items():
        stubbed = {child.name for child in node.body if isinstance(child, ast.FunctionDef)}
        assert public(vars(getattr(core, name))) == public(stubbed), name


def test_the_stubs_have_the_arguments():
    for node in ast.walk(STUBS):
        for child in [node] if isinstance(node, ast.Module) else []:
            for part in child.body:
                if isinstance(part, ast.FunctionDef):
                    same_arguments(getattr(core, part.name), part)
                elif isinstance(part, ast.ClassDef):
                    for method in part.body:
                        decorated = {getattr(one, "id", "") for one in getattr(method, "decorator_list", [])}
                        if isinstance(method, ast.FunctionDef) and "property" not in decorated and method.name[0] != "_":
                            same_arguments(getattr(getattr(core, part.name), method.name), method)


def same_arguments(function, stub):
    try:
        found = [name for name in inspect.signature(function).parameters if name != "self"]
    except ValueError:
        return
    stubbed = [argument.arg for argument in stub.args.args + stub.args.kwonlyargs if argument.arg not in ("self", "cls")]
    assert found == stubbed, stub.name


def test_everything_is_documented():
    for name in betaedit.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(betaedit, name)), name
    for name, member in vars(core).items():
        if inspect.isclass(member):
            for method, function in vars(member).items():
                if not method.startswith("_"):
                    assert inspect.getdoc(function), f"{name}.{method}"


def test_exceptions_are_of_one_hierarchy():
    for name in ("NumericsError", "FileError", "FactsError", "SessionError", "ModelError"):
        assert issubclass(getattr(betaedit, name), betaedit.Error)
    assert issubclass(betaedit.NumericsError, ValueError)


def test_nothing_but_numpy_is_imported():
    program = "import sys, betaedit, betaedit.dropin, betaedit.shipped; print([m for m in ('torch', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
