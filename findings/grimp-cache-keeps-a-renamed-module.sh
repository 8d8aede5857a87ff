#!/usr/bin/env bash
# grimp 3.19 with import-linter 2.16 (seen 2026-11-28, Python 3.11).
#
# import-linter caches what each file imports, by the file's modification time. Whether `from package import name` means a
# submodule or an attribute is decided when the importing file is read. If the submodule is renamed afterwards, and the
# package goes on exporting the name, the importing file does not change: the cache still says that it imports the
# submodule, and the graph gets a module for which there is no file. A "protected" contract then reports an import that is
# not there any more. Without the cache the same tree passes.
#
# A contract that is broken for no visible reason: remove .import_linter_cache, or run `lint-imports --no-cache`.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check import-linter==2.16 grimp==3.19
mkdir -p "$folder/tree/shop/prices"
cd "$folder/tree"
touch shop/__init__.py
echo 'def total(): return 0' > shop/prices/total.py
echo 'from shop.prices.total import total' > shop/prices/__init__.py
echo 'from shop.prices import total' > shop/till.py
cat > .importlinter <<'INI'
[importlinter]
root_package = shop

[importlinter:contract:door]
name = prices is imported through its __init__
type = protected
protected_modules =
    shop.prices.*
allowed_importers =
    shop.prices
INI
lint() { "$folder/venv/bin/lint-imports" "$@" | grep -E "^(prices is|- shop)|^Contracts:" || true; }

echo "A function and its file share a name: the import counts as one of the file."
lint | tee first.txt
grep -q 'shop.till -> shop.prices.total' first.txt

mv shop/prices/total.py shop/prices/sums.py
echo 'from shop.prices.sums import total' > shop/prices/__init__.py
echo "The file is renamed, the importer is not touched; with the cache:"
lint | tee cached.txt
echo "and without it:"
lint --no-cache | tee fresh.txt
grep -q 'shop.till -> shop.prices.total' cached.txt  # there is no such module now
grep -q 'Contracts: 1 kept, 0 broken' fresh.txt
