"""The parts of the sentence encoder that need no weights, and its batching with made-up ones."""

import math
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "datasets"))
import sentence_encoder as se  # noqa: E402

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "milk", "##shake", "##s", "2", "/", "a", "b"]


def encoder(folder: Path) -> se.SentenceEncoder:
    """An encoder of the right shapes with random weights, made without a file of weights."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    made = se.SentenceEncoder.__new__(se.SentenceEncoder)
    made._tokenize = se.WordPiece(folder / "vocab.txt")
    rng = np.random.default_rng(0)

    def matrix(*shape):
        return rng.normal(0, 0.05, shape).astype(np.float32)

    weights = {
        "embeddings.word_embeddings.weight": matrix(len(VOCABULARY), se.DIM),
        "embeddings.position_embeddings.weight": matrix(512, se.DIM),
        "embeddings.token_type_embeddings.weight": matrix(2, se.DIM),
    }
    norms = ["embeddings"]
    for layer in range(se.LAYERS):
        at = f"encoder.layer.{layer}"
        for name, rows, columns in (
                (f"{at}.attention.self.query", se.DIM, se.DIM),
                (f"{at}.attention.self.key", se.DIM, se.DIM),
                (f"{at}.attention.self.value", se.DIM, se.DIM),
                (f"{at}.attention.output.dense", se.DIM, se.DIM),
                (f"{at}.intermediate.dense", 4 * se.DIM, se.DIM),
                (f"{at}.output.dense", se.DIM, 4 * se.DIM)):
            weights[f"{name}.weight"] = matrix(rows, columns)
            weights[f"{name}.bias"] = matrix(rows)
        norms += [f"{at}.attention.output", f"{at}.output"]
    for name in norms:
        weights[f"{name}.LayerNorm.weight"] = 1 + matrix(se.DIM)
        weights[f"{name}.LayerNorm.bias"] = matrix(se.DIM)
    made._weights = weights
    return made


class SentenceEncoder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.encoder = encoder(Path(folder.name))

    def test_longest_piece_first_and_punctuation_apart(self):
        names = [VOCABULARY[number] for number in self.encoder._tokenize("Milkshakes 2/xyz")]
        self.assertEqual(names, ["[CLS]", "milk", "##shake", "##s", "2", "/", "[UNK]", "[SEP]"])

    def test_gelu_is_the_exact_one(self):
        x = np.linspace(-6, 6, 1001, dtype=np.float32)
        exact = [value / 2 * (1 + math.erf(value / math.sqrt(2))) for value in x.tolist()]
        np.testing.assert_allclose(se.gelu(x), exact, atol=2e-6)

    def test_a_vector_does_not_depend_on_what_is_encoded_with_it(self):
        texts = ["milk", "a b", "b a", "milkshakes 2/2", "a"]
        together = self.encoder.encode(texts).astype(np.float32)
        alone = np.concatenate([self.encoder.encode([text]) for text in texts]).astype(np.float32)
        np.testing.assert_allclose(together, alone, atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-3)
        self.assertGreater(np.abs(together[1] - together[2]).max(), 1e-2)  # order matters


if __name__ == "__main__":
    unittest.main()
