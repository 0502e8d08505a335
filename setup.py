"""Puts conf, scripts and benchmarks, which lie beside the package, into it when it is installed."""

from setuptools import find_packages, setup

BESIDE = ("conf", "scripts", "benchmarks")
setup(
    packages=[*find_packages(include=["persona*"]), *(f"persona.{name}" for name in BESIDE)],
    package_dir={f"persona.{name}": name for name in BESIDE},
)
