"""The translator: names are checked first, files are recognised, what was done can be read afterwards."""

import numpy as np
import pytest

from raceline.convert import IRTranslator, readers, rewrite
from raceline.core import plugins
from raceline.core.errors import BadModelError, ConfigError, MissingDependencyError, UnknownNameError
from raceline.ir import Bundle, Limits, run_reference, write_onnx
from raceline.ir.platform import stated_platforms


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "net.onnx"
    write_onnx(rewrite.load("fuse_conv_activation").example(), path)
    return path


def test_from_file_to_bundle(source, tmp_path):
    translator = IRTranslator(input_format="onnx", output_ir="unified_ir_v2")
    read = translator.parse(source)
    model = translator.optimize(read)
    bundle = translator.export(model, tmp_path / "net.raceline")
    assert isinstance(bundle, Bundle)
    assert [item.pass_name for item in translator.rewrites] == ["fuse_conv_activation"]
    assert translator.refusals == []
    assert Bundle.open(tmp_path / "net.raceline").model.provenance.steps == (
        *read.provenance.steps,
        str(translator.rewrites[0]),
    )
    x = np.random.default_rng(0).standard_normal((2, 4, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(
        run_reference(bundle.model, {"x": x})["y"], run_reference(read, {"x": x})["y"]
    )
    again = translator.optimize(bundle.model)
    assert translator.rewrites == [] and again.provenance == bundle.model.provenance


def test_the_format_is_recognised(source):
    assert IRTranslator().parse(source).provenance.source_format == "onnx"


@pytest.mark.parametrize(
    ("names", "told"),
    [({"input_format": "onyx"}, "input format named 'onyx'"), ({"output_ir": "v1"}, "unified_ir_v2")],
)
def test_unknown_names_are_refused_at_once(names, told):
    with pytest.raises(UnknownNameError, match=told):
        IRTranslator(**names)


def test_what_is_no_model_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("nothing to see here")
    with pytest.raises(BadModelError, match=r"readers looked for: .*onnx"):
        IRTranslator().parse(path)
    with pytest.raises(BadModelError, match="there is no file"):
        IRTranslator().parse(tmp_path / "absent.onnx")


def damaged(folder, name):
    """The example of a reader, cut off and with other first bytes."""
    reader = plugins.load(readers, name)
    try:
        path = reader.example(folder)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    main = path if path.is_file() else path / getattr(reader, "landmark", "Manifest.json")
    whole = main.read_bytes()
    main.write_bytes(b"no" * 8 + whole[16 : len(whole) // 2])
    return path


@pytest.mark.parametrize("name", sorted(set(plugins.names(readers)) - {"jax"}))
def test_a_damaged_file_of_a_known_name_is_told_what_is_wrong(tmp_path, name):
    path = damaged(tmp_path, name)
    begins = "" if path.is_dir() else r".*begins with b'nono"
    told = (
        rf"{path.name} looks like {name} by its name, and not by its content: .+{begins}.*cut off.*--format"
    )
    with pytest.raises(BadModelError, match=told):
        IRTranslator().parse(path)


def test_a_file_that_was_not_fetched_is_told(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(BadModelError, match=r"model\.onnx looks like onnx.*git lfs pull"):
        IRTranslator().parse(path)


def test_options_go_to_the_reader(source):
    with pytest.raises(BadModelError, match="nodes"):
        IRTranslator().parse(source, limits=Limits(max_nodes=1))
    with pytest.raises(ConfigError, match="no option 'opset'"):
        IRTranslator().parse(source, opset=17)


def test_a_platform_is_named_loaded_or_given(tmp_path):
    name = stated_platforms()[0]
    stated = IRTranslator(platform_profile=name).platform
    stated.save(tmp_path / "box.json")
    assert IRTranslator(platform_profile=tmp_path / "box.json").platform == stated
    assert IRTranslator(platform_profile=stated).platform is stated
    for absent in (tmp_path / "absent.json", "nonsense-machine"):
        with pytest.raises(ConfigError, match="there is no platform.*amd-zen3"):
            IRTranslator(platform_profile=absent)
