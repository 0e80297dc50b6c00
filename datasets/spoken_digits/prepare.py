"""Makes shards of spoken digits with images: prepare.py OUT --audio FSDD --pictures MNIST --test-pictures MNIST."""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from mmssl.data.user_files import read_files
from mmssl.data.writer import build_from, summary
from mmssl.errors import UserError
from mmssl.modalities.whole import check

RECORDING = re.compile(r"(?:.*/)?(\d)_([a-z]+)_(\d+)\.wav")
PICTURE = re.compile(r"(?:.*/)?(\d)/[^/]+\.png")


@dataclass(frozen=True)
class Recording:
    """A spoken digit and where it stands among the files."""

    file: str
    digit: str
    speaker: str
    take: int


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/test; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    try:
        sounds = read_files(options.audio, expected="digit_speaker_take.wav")
        recordings = recordings_of(sounds, options.audio)
        speakers = sorted({recording.speaker for recording in recordings})
        if options.speaker not in speakers:
            raise UserError(f"--speaker {options.speaker}: {options.audio} has {', '.join(speakers)}")
        for split, source, pairings in (
            ("train", options.pictures, options.pairings),
            ("test", options.test_pictures, 1),
        ):
            chosen = [r for r in recordings if (r.speaker == options.speaker) == (split == "test")]
            pictures = read_files(source, expected="digit/name.png")
            pairs = pair(chosen, pictures, source, pairings=pairings, seed=options.seed)
            about = f"spoken digits {split}: {options.speaker} held out, {pairings} images each, seed {options.seed}"
            samples = Samples(pairs, sounds, pictures)
            out = Path(options.out) / split
            index = build_from(samples, len(pairs), out, shard_samples=1000, workers=1, description=about)
            print(f"{split}: {summary(index)}")
    except UserError as error:
        print(f"spoken_digits: {error}", file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    command = argparse.ArgumentParser(description="Makes shards of spoken digits with images of the same digit.")
    command.add_argument("out", metavar="OUT", help="folder for the splits train and test")
    command.add_argument("--audio", required=True, metavar="PATH", help="tar or folder of digit_speaker_take.wav")
    command.add_argument("--pictures", required=True, metavar="PATH", help="tar or folder of digit/name.png, for train")
    command.add_argument("--test-pictures", required=True, metavar="PATH", help="the same for test")
    command.add_argument("--speaker", default="yweweler", help="held out for test (default yweweler)")
    command.add_argument("--pairings", type=int, default=4, metavar="N", help="images per recording (default 4)")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="of the pairing (default 0)")
    return command


def recordings_of(sounds: dict[str, bytes], source: str) -> list[Recording]:
    """Returns the recordings among files; UserError where there is none."""
    found = [(file, RECORDING.fullmatch(file)) for file in sounds]
    recordings = [Recording(file, told[1], told[2], int(told[3])) for file, told in found if told]
    if not recordings:
        raise UserError(f"{source} has no digit_speaker_take.wav such as 7_george_12.wav")
    if others := [file for file, told in found if not told]:
        print(f"{source}: passed over {len(others)} files that are not digit_speaker_take.wav, such as {others[0]}")
    return recordings


def pair(
    recordings: list[Recording], pictures: dict[str, bytes], source: str, *, pairings: int, seed: int
) -> list[tuple[Recording, str]]:
    """Returns each recording with several images of its digit, in random order; images serve equally often."""
    if pairings < 1:
        raise UserError(f"--pairings {pairings}: expected at least 1")
    of_digit: dict[str, list[str]] = defaultdict(list)
    for file in pictures:
        if told := PICTURE.fullmatch(file):
            of_digit[told[1]].append(file)
    draw = random.Random(seed)
    missing = {recording.digit for recording in recordings} - set(of_digit)
    if missing:
        raise UserError(f"{source} has no image of {', '.join(sorted(missing))}; expected files digit/name.png")
    for files in of_digit.values():
        draw.shuffle(files)
    decks = {digit: cycle(files) for digit, files in of_digit.items()}
    pairs = [(recording, next(decks[recording.digit])) for _ in range(pairings) for recording in recordings]
    draw.shuffle(pairs)
    return pairs


@dataclass
class Samples:
    """Makes the sample of a number: a recording, an image, and what is known of them as JSON."""

    pairs: list[tuple[Recording, str]]
    sounds: dict[str, bytes] = field(repr=False)
    pictures: dict[str, bytes] = field(repr=False)

    def __call__(self, number: int) -> dict[str, bytes]:
        recording, picture = self.pairs[number]
        check("wav", self.sounds[recording.file])
        check("png", self.pictures[picture])
        told = {"digit": recording.digit, "speaker": recording.speaker, "take": recording.take}
        meta = {"file": recording.file, "picture": picture, **told}
        return {
            "wav": self.sounds[recording.file],
            "png": self.pictures[picture],
            "json": json.dumps(meta).encode(),
        }


if __name__ == "__main__":
    sys.exit(main())
