"""What every distribution carries, so that each can be released on its own."""

from __future__ import annotations

import re

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def requirements(project):
    """Every requirement of a package, its extras included."""
    groups = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    return [Requirement(text) for group in groups for text in group]


def test_pins_admit_siblings(project, projects):
    """A requirement on a sibling admits the sibling's present version, and not every later one."""
    versions = {canonicalize_name(p["name"]): Version(p["version"]) for p in projects.values()}
    del versions[canonicalize_name(project["name"])]
    siblings = [r for r in requirements(project) if canonicalize_name(r.name) in versions]
    for requirement in siblings:
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), str(requirement)
        assert not requirement.specifier.contains(f"{version.major + 1}.0"), str(requirement)
        assert "==" not in {part.operator for part in requirement.specifier}, str(requirement)


def test_third_party_requirements_are_bounded(project):
    """A run-time requirement names the oldest version that works and the first that may not."""
    run_time = [Requirement(text) for text in project.get("dependencies", [])]
    for requirement in run_time:
        operators = {part.operator for part in requirement.specifier}
        assert "~=" in operators or {">=", "<"} <= operators, str(requirement)


def test_metadata_is_uniform(folder, project):
    """Name, licence and Python version follow one rule."""
    assert project["name"] == folder.name.replace("_", "-")
    assert project["license"] == "Apache-2.0 OR BSD-3-Clause"
    assert project["requires-python"] == ">=3.11"


def test_changelog_opens_with_the_version(folder, project):
    """The newest heading of the changelog is the version that would be released."""
    changelog = (folder / "CHANGELOG.md").read_text()
    heading = re.search(r"^## \[?([0-9][^\]\s]*)", changelog, re.MULTILINE)
    assert heading is not None
    assert heading[1] == project["version"]


def test_package_is_typed(folder):
    """Hints are shipped."""
    assert (folder / "src" / folder.name / "py.typed").exists()


def test_readme_has_a_runnable_example(folder):
    """The README opens the door with an example that is run as a test."""
    assert "```python\n>>> " in (folder / "README.md").read_text()


def test_test_extra_is_declared(project):
    """`pip install NAME[test]` is enough to run the package's tests."""
    names = {Requirement(text).name for text in project["optional-dependencies"]["test"]}
    assert {"pytest", "hypothesis", "pytest-timeout"} <= names
