import pytest

from engine import assets, audit
from engine.datasets import DATASETS
from engine.errors import InputError
from engine.federation.target_models import TARGET_MODELS
from engine.lab import build_lab, input_hashes
from engine.plan import make_plan
from engine.run_folder import RunFolder, write_json
from engine.run_folder.provenance import collect_provenance
from engine.setups import SETUPS, part_path, private_file
from tests.datasets.layouts import picture, write_celeba_setup, write_generator


def plan_of(**values):
    return make_plan(values, source="test")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_celeba_setup(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", SETUPS)
def test_every_setup_is_of_a_known_data_set_and_target_model(name):
    assert SETUPS[name].target_model in TARGET_MODELS.names()
    assert name in (*DATASETS.names(), "fashion-mnist", "cifar10")


@pytest.mark.parametrize(
    ("data", "model"),
    [
        ("fashion-mnist", "lenet"),
        ("cifar10", "lenet"),
        ("celeba-32", "resnet18"),
        ("imagenet-224", "resnet18"),
    ],
)
def test_a_data_set_brings_its_generator_classifier_and_target_model(data, model):
    plan = plan_of(data=data)

    assert plan.generator.weights == plan.classifier.weights == plan.data == data
    assert plan.target_model.name == model


def test_a_file_of_private_images_comes_with_the_default_setup():
    plan = plan_of(data="mine.safetensors")

    assert plan.generator.weights == plan.classifier.weights == "fashion-mnist"
    assert plan.target_model.name == "lenet"


def test_single_parts_can_be_chosen_otherwise(tmp_path):
    plan = plan_of(
        data="celeba-32",
        generator={"weights": str(tmp_path / "g.safetensors"), "channels_last": True},
        target_model={"name": "lenet", "seed": 3},
    )

    assert plan.generator.weights == str(tmp_path / "g.safetensors")
    assert (plan.target_model.name, plan.target_model.seed) == ("lenet", 3)
    assert plan.classifier.weights == "celeba-32"


@pytest.mark.parametrize("part", [{}, {"weights": None}, {"precision": "bfloat16"}])
def test_null_is_that_of_the_data(part):
    assert plan_of(data="celeba-32", generator=part).generator.weights == "celeba-32"


def test_a_resolved_plan_says_what_is_used_and_reads_back_as_itself():
    plan = plan_of(data="celeba-32")

    resolved = plan.to_dict()

    assert resolved["generator"]["weights"] == resolved["classifier"]["weights"] == "celeba-32"
    assert resolved["target_model"]["name"] == "resnet18"
    assert make_plan(resolved, source="test") == plan


def test_data_sets_are_kept_where_the_plan_the_environment_or_the_default_says(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEAKTUNE_DATA", raising=False)
    assert plan_of().data_folder == str(tmp_path / "data")

    monkeypatch.setenv("LEAKTUNE_DATA", "elsewhere")
    assert plan_of().data_folder == str(tmp_path / "elsewhere")
    assert plan_of(data_folder="mine").data_folder == str(tmp_path / "mine")


def test_embedded_parts_are_used_where_there_are_some_and_the_users_otherwise(tmp_path):
    assert part_path("fashion-mnist", "generator", str(tmp_path)) == assets.asset(
        "fashion-mnist", "generator"
    )
    own = write_generator(tmp_path / "celeba-32" / "generator.safetensors", (3, 32, 32), 2)
    assert part_path("celeba-32", "generator", str(tmp_path)) == own
    assert part_path("a/file", "generator", str(tmp_path)).as_posix() == "a/file"


def test_a_part_embedded_later_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "FOLDER", tmp_path)
    with pytest.raises(InputError, match="pretrain generator --dataset cifar10"):
        part_path("cifar10", "generator", str(tmp_path))
    written = write_generator(tmp_path / "cifar10" / "generator.safetensors", (3, 32, 32), 10)

    assert part_path("cifar10", "generator", str(tmp_path)) == written
    assert private_file("cifar10") is None
    (tmp_path / "cifar10" / "private_images.safetensors").touch()
    assert private_file("cifar10") == tmp_path / "cifar10" / "private_images.safetensors"


@pytest.mark.parametrize(
    ("name", "part", "said"),
    [
        (
            "celeba-32",
            "generator",
            "leaktune pretrain generator --dataset celeba-32 --data /.*/celeba-32 --output /",
        ),
        ("celeba-32", "classifier", "leaktune pretrain classifier --dataset celeba-32"),
        (
            "celeba-32",
            "resnet18",
            "leaktune pretrain target-model --name resnet18 --dataset celeba-32",
        ),
        ("imagenet-224", "generator", r"models.huggingface.co/biggan/ .*MIT.*weights_only=True"),
        ("imagenet-224", "classifier", r"torchvision's ResNet-50 .*save_file"),
    ],
)
def test_a_missing_part_is_named_with_how_to_come_by_it(name, part, said, tmp_path):
    with pytest.raises(InputError, match=rf"the {part} of {name} at {tmp_path}/{name}/.*{said}"):
        part_path(name, part, str(tmp_path))


def test_the_lab_of_a_data_set_has_all_its_parts(data):
    lab = build_lab(plan_of(data="celeba-32", data_folder=str(data), targets=3))

    assert lab.generator.image_shape == lab.classifier.image_shape == (3, 32, 32)
    assert lab.private.images.shape == (8, 3, 32, 32)
    assert lab.private.labels.tolist() == [0, 1] * 4
    assert lab.model.conv1.kernel_size == (3, 3)
    assert lab.model.fc.out_features == 2
    assert lab.perceptual == {}


def test_provenance_hashes_the_images_that_were_chosen(data):
    plan = plan_of(data="celeba-32", data_folder=str(data), targets=3)
    before = collect_provenance(plan)["sha256"]
    pictures = data / "celeba-32" / "img_align_celeba"

    # Of a public image, then of one that a client holds.
    picture(999, (178, 218)).save(pictures / "000001.jpg")
    assert input_hashes(plan) == before
    kept = (pictures / "000031.jpg").read_bytes()
    picture(999, (178, 218)).save(pictures / "000031.jpg")
    after = input_hashes(plan)
    (pictures / "000031.jpg").write_bytes(kept)

    assert {name for name in before if after[name] != before[name]} == {"private_images"}
    assert all(len(value) == 64 for value in before.values())


def test_an_audit_is_not_resumed_with_other_weights_of_lpips_than_it_began_with(data, tmp_path):
    plan = plan_of(data_folder=str(tmp_path / "data"))
    weights = tmp_path / "data" / "lpips" / "alex.safetensors"
    folder = RunFolder.create(tmp_path, "x", plan="", resolved=plan.to_dict())
    write_json(folder.path / "provenance.json", collect_provenance(plan))
    audit._check_inputs(folder, plan)

    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    with pytest.raises(InputError, match="have changed since: lpips alex"):
        audit._check_inputs(folder, plan)

    write_json(folder.path / "provenance.json", collect_provenance(plan))
    weights.unlink()
    with pytest.raises(InputError, match="have changed since: lpips alex"):
        audit._check_inputs(folder, plan)
