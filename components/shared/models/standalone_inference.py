"""Transcribe pages with the model in this folder; needs only the packages in requirements.txt.

python inference.py page.png|scan.pdf|FOLDER ... [--json] [--device auto|cpu|cuda] [--max_new_tokens N]
"""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # this folder: a json.py in it must not replace Python's json module

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

# OpenMP's waiting threads spin by default, which is slow on a busy machine. Read when PyTorch loads, so set before.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

HERE = Path(__file__).resolve().parent
# These depend on the program that saved a model and on where it is stored: copies of one model can differ in them.
NOT_OF_THE_MODEL = {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "_commit_hash"}
PHOTOMETRIC, MIN_IS_WHITE = 262, 0  # TIFF's tag PhotometricInterpretation
READ = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".pdf"}
PDF_SCALE = 150 / 72  # pixels per PDF point: 150 dpi
BASE_DIFFERENCES = {
    "config_sha256": "its config.json describes another model",
    "weights_sample_sha256": "its weights differ",
}


def main() -> int:
    settings = json.loads((HERE / "inference_config.json").read_text(encoding="utf-8"))
    arguments = parse_arguments(settings)
    files = listed(arguments.pages)
    if settings["trust_remote_code"] and not arguments.trust_remote_code:
        refuse("this model brings its own Python code; read it, then add --trust_remote_code")
    if settings["kind"] == "adapter" and settings["base_model"] is None and arguments.base_model is None:
        refuse("the base model is not in this package: add --base_model FOLDER")
    folder = Path(arguments.base_model or HERE / (settings["base_model"] or ""))
    if settings["kind"] == "adapter" and folder.is_dir():  # a hub model is checked after its download
        check_base(settings["base"], folder, str(folder))
    reader = PageReader(settings, arguments)
    for file, number, image in (page for each in files for page in pictures(each)):
        text = reader.read(image)
        head = f"--- {file} page {number}\n" if len(files) > 1 or file.suffix.lower() == ".pdf" else ""
        line = json.dumps({"file": str(file), "page": number, "text": text}, ensure_ascii=False)
        print(line if arguments.json else head + text, flush=True)
    return 0


def parse_arguments(settings: dict) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Transcribe pages.")
    parser.add_argument("pages", nargs="+", help="pictures, PDFs (with pypdfium2), or folders of them")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each page: file, page, text")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--max_new_tokens", type=int, default=settings["max_new_tokens"])
    parser.add_argument(
        "--prompt", default=settings["prompt"], help="the whole text before the answer, including the image token"
    )
    parser.add_argument("--base_model", default=None, help="folder or hub id of the base, if it is not in this package")
    parser.add_argument("--trust_remote_code", action="store_true", help="allow the model to run its own Python code")
    return parser.parse_args()


class PageReader:
    """The model and its processor, loaded once."""

    def __init__(self, settings: dict, arguments: argparse.Namespace) -> None:
        import torch

        device = arguments.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.prompt = arguments.prompt
        self.max_new_tokens = arguments.max_new_tokens
        self.image_options = settings["image_options"]
        self.text_options = settings["text_options"]
        self.processor = load_processor(settings)
        for name, value in self.image_options.items():  # the processor counts image tokens by its attributes
            setattr(self.processor.image_processor, name, value)
        self.model = load_model(settings, arguments.base_model, getattr(torch, settings["dtype"][device]))
        self.model = self.model.to(device).eval()
        self.end_tokens = end_tokens(self.model, self.processor.tokenizer)

    def read(self, image: Any) -> str:
        """Return the transcription of a page, decoded greedily."""
        import torch

        inputs = self.processor(
            images=[image], text=[self.prompt], return_tensors="pt", **self.text_options, **self.image_options
        ).to(self.model.device, self.model.dtype)
        pad = self.processor.tokenizer.pad_token_id
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=self.end_tokens,
                pad_token_id=self.end_tokens[0] if pad is None else pad,
            )
        answer = output[0, inputs["input_ids"].shape[1] :].tolist()
        end = next((index for index, token in enumerate(answer) if token in self.end_tokens), None)
        return self.processor.tokenizer.decode(answer[:end], skip_special_tokens=True)


def listed(names: list) -> list:
    """Return the given files and the files in the given folders, in order."""
    if missing := [name for name in names if not Path(name).exists()]:
        refuse(f"no such file: {', '.join(missing)}")
    files: list = []
    for name in map(Path, names):
        files += sorted(file for file in name.iterdir() if file.suffix.lower() in READ) if name.is_dir() else [name]
    return files or refuse(f"no pictures or PDFs: {', '.join(names)}")


def pictures(path: Path) -> Any:
    """Yield (file, page number, picture) for each page, prepared as in training."""
    if path.suffix.lower() != ".pdf":
        yield path, 1, opened_page(path)
        return
    try:
        import pypdfium2

        for number, page in enumerate(pypdfium2.PdfDocument(path), start=1):
            yield path, number, page.render(scale=PDF_SCALE).to_pil().convert("L").convert("RGB")
    except ImportError:
        refuse("PDFs are read with pypdfium2: pip install pypdfium2")
    except RuntimeError as error:
        refuse(f"{path}: cannot be read as a PDF ({error})")


def opened_page(path: str | Path) -> Any:
    """Return a picture file in 8-bit grey, as RGB."""
    from PIL import Image

    try:
        # A stream, not the path: Pillow 13 memory-maps raw TIFFs and swaps the sides of a rotated page.
        with Path(path).open("rb") as stream, Image.open(stream) as image:
            return gray_page(image).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        refuse(f"{path}: cannot be read as a picture ({error})")


def gray_page(image: Any) -> Any:
    """Return a picture in 8-bit grey, upright, on white paper; ValueError if its black level is unknown."""
    import numpy as np
    from PIL import Image, ImageChops, ImageOps

    inverted = getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == MIN_IS_WHITE
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips everything above 255
        gray = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
        return ImageChops.invert(gray) if inverted else gray
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode}, whose black and white are unknown")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("L")
    return image.convert("L")


def load_processor(settings: dict) -> Any:
    """Load the processor of this folder."""
    from transformers import AutoProcessor, AutoTokenizer, ProcessorMixin

    options = {"trust_remote_code": settings["trust_remote_code"]}
    try:
        return AutoProcessor.from_pretrained(str(HERE), **options)
    except ImportError:
        # transformers 5.17 imports torchvision to find the image processor of some families, although one that needs
        # only Pillow exists: so load the parts one by one.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor
        from transformers.models.auto.processing_auto import processor_class_from_name

        parts, _ = ProcessorMixin.get_processor_dict(str(HERE))
        return processor_class_from_name(parts["processor_class"])(
            image_processor=AutoImageProcessor.from_pretrained(str(HERE), **options),
            tokenizer=AutoTokenizer.from_pretrained(str(HERE), **options),
            chat_template=parts.get("chat_template"),
        )


def load_model(settings: dict, base_model: str | None, dtype: Any) -> Any:
    """Load the full model in this folder, or the base with this folder's adapter."""
    from transformers import AutoModelForImageTextToText

    options = {"dtype": dtype, "trust_remote_code": settings["trust_remote_code"]}
    if settings["kind"] == "model":
        return AutoModelForImageTextToText.from_pretrained(str(HERE), use_safetensors=True, **options)
    from peft import PeftModel

    if base_model is None and settings["base_in_package"]:
        base_model = str(HERE / settings["base_model"])
    elif base_model is None or base_model == settings["base_model"]:
        base_model = settings["base_model"]
        options["revision"] = settings["revision"]
    base = AutoModelForImageTextToText.from_pretrained(base_model, use_safetensors=True, **options)
    if not Path(base_model).is_dir():
        from transformers.utils import cached_file

        config = cached_file(base_model, "config.json", revision=options.get("revision"), local_files_only=True)
        check_base(settings["base"], Path(str(config)).parent, base_model)
    model = PeftModel.from_pretrained(base, str(HERE))
    set_adapter_weights(model)
    return model


def check_base(expected: dict, folder: Path, base_model: str) -> None:
    """Exit if the base in ``folder`` is not the one that the adapter was measured on."""
    found = base_fingerprint(folder)
    for name, difference in BASE_DIFFERENCES.items():
        if expected[name] is not None and found[name] != expected[name]:
            revision = f" at revision {expected['revision']}" if expected["revision"] else ""
            refuse(
                f"{base_model} is not this adapter's base model: {difference}."
                f" The adapter fits only {expected['name']}{revision}"
            )


def base_fingerprint(folder: Path) -> dict:
    """Return two digests that identify a base model: of its config, and of a sample of its weights.

    The sample is the first 64 bytes of each tensor: training changes them, a different split into files does not. It
    is None for weights that are not in safetensors.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sample = weights_sample(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"config_sha256": None, "weights_sample_sha256": None}
    text = json.dumps(without_origin(config), sort_keys=True)
    return {"config_sha256": hashlib.sha256(text.encode()).hexdigest(), "weights_sample_sha256": sample}


def without_origin(config: Any) -> Any:
    """Return a config without the fields that describe its origin, at any depth."""
    if isinstance(config, dict):
        return {name: without_origin(value) for name, value in config.items() if name not in NOT_OF_THE_MODEL}
    return config


def weights_sample(folder: Path) -> str | None:
    """Return the digest over each tensor's name, dtype, shape and first bytes."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    if not all((folder / name).is_file() for name in names):
        return None
    tensors = []
    for name in names:
        with (folder / name).open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
            for tensor, entry in header.items():
                if tensor != "__metadata__":
                    begin, end = entry["data_offsets"]
                    stream.seek(8 + length + begin)
                    first = stream.read(min(64, end - begin)).hex()
                    tensors.append([tensor, entry["dtype"], entry["shape"], first])
    return hashlib.sha256(json.dumps(sorted(tensors)).encode()).hexdigest()


def refuse(message: str) -> Any:
    """Exit with one line and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def set_adapter_weights(model: Any) -> None:
    """Copy this folder's adapter weights into the model under the names they were saved with.

    PEFT 0.21 with transformers 5.17 renames the weights of some families (DeepSeek-OCR-2) and then loads none of them.
    """
    import torch
    from peft import get_peft_model_state_dict, load_peft_weights

    stored = load_peft_weights(str(HERE), device="cpu")
    weights = get_peft_model_state_dict(model)
    if weights.keys() != stored.keys():
        refuse("the adapter does not fit the base model")
    with torch.no_grad():
        for name, values in stored.items():
            weights[name].copy_(values)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the token ids that end an answer: the generation config's and the tokenizer's."""
    configured = model.generation_config.eos_token_id
    tokens = list(configured) if isinstance(configured, list) else [configured]
    return sorted({token for token in [*tokens, tokenizer.eos_token_id] if token is not None})


if __name__ == "__main__":
    sys.exit(main())
