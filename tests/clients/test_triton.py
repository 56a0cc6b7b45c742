"""Triton's HTTP client, for health and metadata: tensors are not served."""

import unittest

import numpy
import tritonclient.http as triton
from served import (
    CHAT_MODEL,
    TINY_MODEL,
    URL,
    setUpModule,  # noqa: F401  (unittest calls it)
)


class TritonTest(unittest.TestCase):
    def setUp(self) -> None:
        self.client = triton.InferenceServerClient(URL.removeprefix("http://"))
        self.addCleanup(self.client.close)

    def test_the_server_and_its_models_are_ready(self) -> None:
        self.assertTrue(self.client.is_server_live())
        self.assertTrue(self.client.is_server_ready())
        self.assertTrue(self.client.is_model_ready(CHAT_MODEL))
        self.assertFalse(self.client.is_model_ready("gpt-5"))
        self.assertFalse(self.client.is_model_ready(CHAT_MODEL, model_version="1"))

    def test_server_and_models_tell_of_themselves(self) -> None:
        server = self.client.get_server_metadata()
        self.assertEqual((server["name"], server["extensions"]), ("inference-gateway", ["generate"]))
        model = self.client.get_model_metadata(TINY_MODEL)
        self.assertEqual((model["name"], model["platform"]), (TINY_MODEL, "onnx_onnxv1"))
        self.assertEqual(model["inputs"], [{"name": "text_input", "datatype": "BYTES", "shape": [1]}])
        self.assertEqual(model["outputs"], [{"name": "text_output", "datatype": "BYTES", "shape": [1]}])
        (version,) = model["versions"]
        self.assertEqual(self.client.get_model_metadata(TINY_MODEL, model_version=version), model)
        self.assertTrue(self.client.is_model_ready(TINY_MODEL, model_version=version))

    def test_errors_are_told(self) -> None:
        with self.assertRaises(triton.InferenceServerException) as raised:
            self.client.get_model_metadata("gpt-5")
        self.assertIn("there is no model `gpt-5`", raised.exception.message())
        tensor = triton.InferInput("text_input", [1], "BYTES")
        tensor.set_data_from_numpy(numpy.array(["Hello"], dtype=numpy.object_), binary_data=False)
        with self.assertRaises(triton.InferenceServerException) as raised:
            self.client.infer(TINY_MODEL, [tensor])
        self.assertIn("use POST /v2/models/tiny/generate", raised.exception.message())


if __name__ == "__main__":
    unittest.main()
