"""TensorFlow's SavedModel and GraphDef: messages, checkpoints, functions and operators, without TensorFlow."""
