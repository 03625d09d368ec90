"""PaddlePaddle inference models: program, weights and operators."""
