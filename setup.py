"""Maps data/ and docs/results/ into the package; everything else is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

SHIPPED = {
    "puma_engine.shipped.data": "data",
    "puma_engine.shipped.results": "docs/results",
}

setup(
    packages=[
        *find_namespace_packages(include=["puma_engine*", "dashboard*"]),
        *SHIPPED,
        *(
            f"{package}.{name}"
            for package, folder in SHIPPED.items()
            for name in find_namespace_packages(folder)
        ),
    ],
    package_dir=SHIPPED,
)
