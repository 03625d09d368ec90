"""TensorFlow Lite: the flatbuffer file and what its operators mean."""
