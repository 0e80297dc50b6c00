"""Classifies images by the names of classes with encoders that mmssl trained. Copy it and make it yours.

python tools/zero_shot.py runs/demo photos/*.jpg --classes ball cube star
"""

from __future__ import annotations

import argparse

import mmssl

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("run", help="a run folder that holds encoders/image and encoders/text")
parser.add_argument("images", nargs="+", help="image files")
parser.add_argument("--classes", nargs="+", required=True, help="names of the classes")
parser.add_argument("--templates", nargs="+", default=["{}", "a {}", "a photo of a {}"], help="prompts with {}")
parser.add_argument("--space", default="clip", help="the task whose joint embedding is used")
arguments = parser.parse_args()

image_encoder = mmssl.load_encoder(f"{arguments.run}/encoders/image")
text_encoder = mmssl.load_encoder(f"{arguments.run}/encoders/text")

weights = mmssl.zero_shot_classifier(text_encoder, arguments.classes, arguments.templates, space=arguments.space)
embeddings = image_encoder.encode(arguments.images, space=arguments.space)  # (N, D)
similarity = embeddings @ weights.T  # (N, C)

for image, row in zip(arguments.images, similarity, strict=True):
    ranked = row.argsort(descending=True)[:3].tolist()
    print(image, *(f"{arguments.classes[i]} {row[i]:.3f}" for i in ranked), sep="\t")
