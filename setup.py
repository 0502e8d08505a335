"""Puts conf, scripts and benchmarks, which lie beside the package, into it when it is installed."""

from setuptools import find_namespace_packages, setup

BESIDE = ("conf", "scripts", "benchmarks")
inside = [f"persona.{name}" for name in BESIDE]
inside += [f"persona.{name}.{sub}" for name in BESIDE for sub in find_namespace_packages(name)]
setup(
    packages=[*find_namespace_packages(include=["persona*"]), *inside],
    package_dir={f"persona.{name}": name for name in BESIDE},
)
