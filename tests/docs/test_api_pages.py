"""Every public name is in the API reference."""

import importlib
import re

import pytest
from docs.pages import ROOT

API = ROOT / "docs" / "api"
PACKAGES = sorted(
    path.parent.name
    for path in (ROOT / "keras_dyhead").glob("*/__init__.py")
    if "__all__" in path.read_text() and path.parent.name not in ("cli", "recipes")
)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_of_a_package_are_on_its_page(package):
    names = set(importlib.import_module(f"keras_dyhead.{package}").__all__)
    page = (API / f"{package}.md").read_text()
    assert names == set(re.findall(rf"^::: keras_dyhead\.{package}\.(\w+)$", page, re.MULTILINE))


def test_public_names_of_the_integrations_are_on_their_page():
    page = (API / "integrations.md").read_text()
    for module in ("keras_cv", "keras_hub"):
        names = importlib.import_module(f"keras_dyhead.integrations.{module}").__all__
        entry = rf"::: keras_dyhead\.integrations\.{module}\n    options: {{members: \[(.*)\]}}"
        assert set(names) == set(re.search(entry, page)[1].split(", "))
