"""Index a CSV file and search it; run again, it takes only what has changed.

python examples/search_csv.py articles.csv 血压高怎么办 --filter "department = '内科'"

The file has the columns `id` and `text`; `title` goes in front of the text, other columns are fields. `care-accel index` does the
same and reads more formats. Needs the extra `collection`.
"""

import argparse
import csv
from pathlib import Path

from care_accel import Collection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("query")
    parser.add_argument("--collection", type=Path, default=Path("articles"))
    parser.add_argument("--filter", help="an expression over the fields, in SQL")
    parser.add_argument("-k", type=int, default=3)
    options = parser.parse_args()

    exists = options.collection.exists()
    collection = (
        Collection.open(options.collection) if exists else Collection.create(options.collection, "care-mini")
    )
    with options.file.open(
        encoding="utf-8-sig", newline=""
    ) as stream:  # spreadsheets begin with a byte order mark
        done = collection.upsert(csv.DictReader(stream), show_progress=True)
    print(f"{done.new} new, {done.changed} changed, {done.same} the same")

    for hit in collection.search(options.query, k=options.k, filter=options.filter):
        print(f"{hit.score:.3f}  {hit.id}  {hit.document['title']}  {hit.document['text']}")


if __name__ == "__main__":
    main()
