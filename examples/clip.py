"""Features of images and texts, and what they are good for. Give a folder of images and a checkpoint.

uv run python examples/clip.py openai/clip-vit-base-patch32 my_images
"""

import sys
from pathlib import Path

import efficientai_toolkit as eat

checkpoint, folder = sys.argv[1:3]
images = sorted(path for path in Path(folder).rglob("*") if path.suffix in {".png", ".jpg", ".jpeg", ".webp"})
model, processor = eat.clip.load(checkpoint)
print(f"{model}: {model.num_parameters:,} parameters, {model.dim} features")

# An index of the folder, and a search by text.
index = model.encode_image(images, normalize=True)
query = model.encode_text("something to eat", normalize=True)
found, similarities = eat.clip.search(query, index, count=5)
for number, similarity in zip(found[0], similarities[0], strict=True):
    print(f"{similarity:.3f} {images[number]}")

# Labels of your own, without training.
labels = ["animal", "person", "building", "food"]
for image, row in zip(images[:5], eat.clip.classify(model, images[:5], labels), strict=False):
    print(image.name, {label: round(float(share), 2) for label, share in zip(labels, row, strict=True)})
