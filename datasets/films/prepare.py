"""Makes shards of videos with sound, split into train and test: prepare.py OUT --source TAR_OR_FOLDER."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mmssl import modalities
from mmssl.console import add_split
from mmssl.data.split import Known, Split, shared_out
from mmssl.data.user_files import Files
from mmssl.data.writer import build_from, summary
from mmssl.errors import DamagedError, UserError
from mmssl.modalities import audio, video

TICKS = 25_000  # of a GRID alignment in a second
PAUSES = ("sil", "sp")
FPS, CRF = 12.0, 18  # of films that are written again
TIME = r"(?:(\d+):)?(\d+):(\d+)[.,](\d+)"
CUE = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}")  # of SubRip and WebVTT
TAG = re.compile(r"<[^>]*>")


def main(arguments: list[str] | None = None) -> int:
    """Writes OUT/train and OUT/test; an interrupted run continues where it stopped."""
    options = parser().parse_args(arguments)
    try:
        if options.side is not None and options.side < 16:
            raise UserError(f"--side {options.side}: expected at least 16 pixels")
        with closing(Films(options.source)) as films:
            write(films, options)
    except UserError as error:
        print(f"videos: {error}", file=sys.stderr)
        return 2
    return 0


def write(films: Films, options: argparse.Namespace) -> None:
    """Writes both splits, and tells of videos that were left out."""
    splits = choose(films, options)
    for split, names in splits.items():
        out, about = Path(options.out) / split, f"videos of {films.source.name}, {split}"
        make = Samples(names, films, options.side)
        index = build_from(make, len(names), out, shard_samples=100, workers=1, description=about)
        print(f"{split}: {summary(index)}")


def parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    command = argparse.ArgumentParser(description="Makes shards of videos with sound, split into train and test.")
    command.add_argument("out", metavar="OUT", help="folder for the splits train and test")
    command.add_argument("--source", required=True, metavar="PATH", help="tar or folder of video files")
    command.add_argument("--seed", type=int, default=0, metavar="S", help="chooses what is held out (default 0)")
    command.add_argument(
        "--side",
        type=int,
        metavar="PIXELS",
        help="write films again, quick to read: shorter side PIXELS, 12 images a second, no sound (default: as is)",
    )
    command.add_argument("--test-prefix", nargs="+", metavar="PREFIX", help="held out: names that begin so")
    add_split(command)
    return command


class Films(Files):
    """The videos of a folder or a tar, and what its side files say; files are read when they are asked for."""

    def __init__(self, source: str) -> None:
        super().__init__(source, expected="video files")
        self.there = frozenset(self.names)
        self.films = [name for name in self.names if extension(name) in video.EXTENSIONS]
        if not self.films:
            raise UserError(f"{source} holds no video; expected files ending in {', '.join(video.EXTENSIONS)}")
        self.rows = {row["file"]: row for name in self.names if extension(name) == "csv" for row in self._rows(name)}

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        for row in csv.DictReader(self.read(name).decode("utf-8-sig").splitlines()):
            if "file" in row:
                yield {key: number_or_text(value) for key, value in row.items() if key is not None and value}

    def row(self, name: str) -> dict[str, Any]:
        """Returns the CSV row of a video, by its path or its bare name; empty where there is none."""
        return self.rows.get(name) or self.rows.get(PurePosixPath(name).name) or {}

    def about(self, name: str) -> dict[str, Any]:
        """Returns what is known of a video: its name, its row, its words and its own JSON."""
        stem = str(PurePosixPath(name).with_suffix(""))
        told: dict[str, Any] = {"name": PurePosixPath(name).stem, **self.row(name), "file": name}
        if f"{stem}.align" in self.there:
            told["words"] = words(self.read(f"{stem}.align").decode("utf-8", "replace"))
            told["text"] = " ".join(word["word"] for word in told["words"])
        for name in (f"{stem}.srt", f"{stem}.vtt"):
            if name in self.there:
                told["subtitles"] = subtitles(self.read(name).decode("utf-8-sig", "replace"))
                told["text"] = " ".join(line["text"] for line in told["subtitles"])
        if f"{stem}.json" in self.there:
            own = modalities.decode("json", self.read(f"{stem}.json"))
            if not isinstance(own, dict):
                raise DamagedError("JSON beside a video that is no object", f"{stem}.json")
            told |= own
        return told


def extension(name: str) -> str:
    """Returns what a name ends in, in small letters and without the dot."""
    return PurePosixPath(name).suffix[1:].lower()


def number_or_text(value: str) -> float | int | str:
    """Returns a number where the text is one."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def words(align: str) -> list[dict[str, Any]]:
    """Returns the words of a GRID alignment with their times in s."""
    rows = [line.split() for line in align.splitlines() if line.strip()]
    if any(len(row) != 3 or not (row[0] + row[1]).isdigit() for row in rows):
        raise DamagedError("an alignment that is not `start end word` a line")
    return [{"word": w, "start": int(a) / TICKS, "end": int(b) / TICKS} for a, b, w in rows if w not in PAUSES]


def subtitles(text: str) -> list[dict[str, Any]]:
    """Returns the lines of a SubRip or WebVTT file with their times in s, without markup; DamagedError for none."""
    found = []
    for block in re.split(r"\n\s*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        rows = block.strip().splitlines()
        for number, row in enumerate(rows[:2]):  # a cue may have a name before its times
            cue, said = CUE.match(row), TAG.sub("", " ".join(rows[number + 1 :])).strip()
            if cue and said:
                found.append({"text": said, "start": seconds(cue.groups()[:4]), "end": seconds(cue.groups()[4:])})
    if not found:
        raise DamagedError("subtitles without a line that has times")
    return found


def seconds(parts: tuple[str | None, ...]) -> float:
    """Returns hours, which may be missing, minutes, seconds and what follows the point as s."""
    hours, minutes, whole, rest = parts
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(f"{whole}.{rest}")


def choose(films: Films, options: argparse.Namespace) -> dict[str, list[str]]:
    """Returns split -> its videos: by prefix, or as `mmssl.data.split` has it, a fifth at random by default."""
    split = Split.of(options)
    if options.test_prefix:
        if split is not None:
            raise UserError("--test-prefix with another split: give one of them")
        begins = tuple(options.test_prefix)
        split = Split(files=tuple(name for name in films.films if PurePosixPath(name).name.startswith(begins)))
        if not split.files:
            raise UserError(f"none of the {len(films.films)} videos begins with {' or '.join(options.test_prefix)}")
    known = [
        Known(name, str(films.row(name).get("class", "")), {**films.row(name), "file": name}) for name in films.films
    ]
    parts = shared_out(known, split or Split(seed=options.seed))
    return {part: [films.films[place] for place in places] for part, places in parts.items()}


@dataclass
class Samples:
    """Makes the sample of a number: the video's own bytes, or a small silent copy, and what is known of it as JSON."""

    names: list[str]
    films: Films = field(repr=False)
    side: int | None = None

    def __call__(self, number: int) -> dict[str, Any]:
        name = self.names[number]
        data = self.films.read(name)
        try:
            kind, film = ("mp4", smaller(data, self.side)) if self.side else (extension(name), checked(data))
            about = self.films.about(name)
        except DamagedError as error:
            raise DamagedError(error.reason, name) from None
        return {
            "__key__": re.sub(r"[^\w+-]", "_", str(PurePosixPath(name).with_suffix(""))),
            kind: film,
            "json": json.dumps(about, ensure_ascii=False).encode(),
        }


def checked(data: bytes) -> bytes:
    """Returns a video; DamagedError where its first image, or its first second of sound, does not decode."""
    video.Video(data).frames([0.0])
    audio.Audio(data).read(sample_rate=16_000, seconds=1.0)
    return data


def smaller(data: bytes, side: int) -> bytes:
    """Returns the images of a video as H.264 of 12 a second, of which the shorter side is at most so many pixels."""
    clip = video.Video(data)
    times = [(i + 0.5) / FPS for i in range(max(1, int(clip.duration * FPS)))]
    pictures = clip.frames(times, min_size=side)
    height, width = (length - length % 2 for length in pictures.shape[1:3])
    return video.encode(pictures[:, :height, :width], fps=FPS, quality=CRF)


if __name__ == "__main__":
    sys.exit(main())
