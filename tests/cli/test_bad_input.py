"""Whatever is wrong with what a user gives: one message, its exit code, and nothing written."""

import pickle
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from engine import assets
from engine.federation import make_target_model
from engine.plan import make_plan
from engine.run_folder import RunFolder

PLAN, INPUT, INFRASTRUCTURE = 2, 3, 4
ONE_CAPTURE = {"targets": 1, "controls": ["prior_only"]}


class Canary:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder of files each of which is wrong in its own way."""
    folder = tmp_path_factory.mktemp("inputs")
    canary = Canary(folder / "canary")
    torch.save({"weights": canary}, folder / "torch_save.safetensors")
    for protocol in (0, 2, 5):
        (folder / f"pickle{protocol}.safetensors").write_bytes(pickle.dumps(canary, protocol))
    _write_captures(folder)
    _write_private_images(folder)
    generator = assets.asset("fashion-mnist", "generator").read_bytes()
    (folder / "truncated.safetensors").write_bytes(generator[:-1000])
    (folder / "no_card.safetensors").write_bytes(generator)
    (folder / "another.safetensors").write_bytes(generator)
    (folder / "another.json").write_text(
        assets.asset("fashion-mnist", "classifier").with_suffix(".json").read_text()
    )
    (folder / "empty.safetensors").touch()
    return folder


def _write_captures(folder):
    model = make_target_model("lenet", image_shape=(1, 28, 28), classes=10, seed=0)
    update = {name: torch.full_like(p, 0.1) for name, p in model.named_parameters()}
    name = next(iter(update))
    save_file(update, folder / "capture.safetensors")
    broken = update[name].clone()
    broken.view(-1)[:2] = torch.tensor([float("nan"), float("inf")])
    save_file(update | {name: broken}, folder / "nonfinite.safetensors")
    save_file(update | {name: torch.zeros(3, 2)}, folder / "misshapen.safetensors")
    save_file({n: t for n, t in update.items() if n != name}, folder / "incomplete.safetensors")


def _write_private_images(folder):
    images = load_file(assets.asset("fashion-mnist", "private_images"))
    smaller = {
        name: tensor[..., ::2, ::2].contiguous() if name.endswith("images") else tensor
        for name, tensor in images.items()
    }
    save_file(smaller, folder / "smaller.safetensors")
    save_file({"images": images["images"]}, folder / "unlabelled.safetensors")
    few = {"images": images["images"][:1].contiguous(), "labels": images["labels"][:1]}
    save_file(images | few, folder / "one_image.safetensors")


def file(name):
    """A placeholder for the path of one of the inputs."""
    return f"INPUTS/{name}.safetensors"


def refuse(name, plan, code, *said):
    return pytest.param(plan, code, said, id=name)


@pytest.mark.parametrize(
    ("plan", "code", "said"),
    [
        refuse(
            "unknown key",
            {"target": 3},
            PLAN,
            "Unknown key 'target'; expected one of: attack, attacks, captures",
            "Did you mean 'targets'?",
        ),
        refuse(
            "unknown key within a part",
            {"attack": {"buget": 100}},
            PLAN,
            "Unknown key 'attack.buget'",
            "Did you mean 'budget'?",
        ),
        refuse("wrong type", {"targets": "eight"}, PLAN, "targets: ", "integer", "got 'eight'"),
        refuse("number for a name", {"name": 5}, PLAN, "name: ", "string", "got 5"),
        refuse("no conversion", {"targets": True}, PLAN, "targets: ", "integer", "got True"),
        refuse("part of another kind", {"attack": [1]}, PLAN, "attack: ", "dictionary", "got [1]"),
        refuse("below its bound", {"attack": {"budget": 0}}, PLAN, "attack.budget: ", "got 0"),
        refuse("name that is a path", {"name": "../x"}, PLAN, "name: ", "got '../x'"),
        refuse("newer version", {"version": 2}, PLAN, "version: ", "1", "got 2"),
        refuse(
            "several problems at once",
            {"targets": "eight", "sed": 1, "attack": {"budget": -1}, "compute": {"workers": 0}},
            PLAN,
            "targets: ",
            "Did you mean 'seed'?",
            "attack.budget: ",
            "compute.workers: ",
        ),
        refuse(
            "several unknown names at once",
            {"defenses": ["nonne", "clip"], "target_model": {"name": "lennet"}},
            PLAN,
            "defenses.0: Unknown defense 'nonne'",
            "defenses.1: Unknown defense 'clip'",
            "target_model: Unknown target model 'lennet'",
        ),
        refuse(
            "unknown defense",
            {"defenses": ["sparsificaton"]},
            PLAN,
            "expected one of: clipping, ",
            "Did you mean 'sparsification'?",
        ),
        refuse(
            "unknown setting of a defense",
            {"defenses": [{"name": "clipping", "maxnorm": 4}]},
            PLAN,
            "Unknown setting 'maxnorm' of the defense 'clipping'",
            "Did you mean 'max_norm'?",
        ),
        refuse(
            "missing setting of a defense",
            {"defenses": ["clipping"]},
            PLAN,
            "'clipping' needs a value for: max_norm",
        ),
        refuse(
            "setting of a defense out of its range",
            {"defenses": [{"name": "clipping", "max_norm": -1}]},
            PLAN,
            "Expected max_norm > 0, got max_norm=-1",
        ),
        refuse("one defense twice", {"defenses": ["none", "none"]}, PLAN, "none is listed twice"),
        refuse("defenses as a word", {"defenses": "none"}, PLAN, "defenses: ", "list of defenses"),
        refuse(
            "unknown searcher",
            {"attack": {"searcher": "nevergard:OnePlusOne"}},
            PLAN,
            "'nevergard'",
            "Did you mean 'nevergrad'?",
        ),
        refuse(
            "unknown Nevergrad optimizer",
            {"attack": {"searcher": "nevergrad:DiagonalCMB"}},
            PLAN,
            "'DiagonalCMB'",
            "Did you mean 'DiagonalCMA'?",
        ),
        refuse(
            "two unknown searchers of several",
            {"attack": {"searchers": ["sepcmb", "cma", {"name": "cma:ful"}]}},
            PLAN,
            "attack.searchers.0: Unknown searcher 'sepcmb'",
            "Did you mean 'sepcma'?",
            "attack.searchers.2: ",
            "'ful'",
        ),
        refuse(
            "unknown setting of a searcher of several",
            {"attack": {"searchers": ["cma", {"name": "sepcma", "popsize": 9}]}},
            PLAN,
            "attack.searchers.1: Unknown setting 'popsize' of the searcher 'sepcma'",
        ),
        refuse(
            "settings of a searcher that the search sets",
            {"attack": {"searchers": [{"name": "sepcma", "budget": 9}]}},
            PLAN,
            "attack: searchers.0: Expected searcher_settings without budget",
        ),
        refuse("no searcher", {"attack": {"searchers": []}}, PLAN, "attack.searchers: ", "1 item"),
        refuse(
            "searchers as a word",
            {"attack": {"searchers": "sepcma"}},
            PLAN,
            "attack.searchers: expected a list of searchers; got 'sepcma'",
        ),
        refuse(
            "a searcher without a name",
            {"attack": {"searchers": [{"population": 9}]}},
            PLAN,
            "attack.searchers.0.name: ",
        ),
        refuse(
            "one searcher twice",
            {"attack": {"searchers": ["sepcma", "cma", {"name": "sepcma", "population": 9}]}},
            PLAN,
            "attack.searchers: expected each once, got sepcma, cma, sepcma.",
        ),
        *(
            refuse(
                f"searchers and {key}",
                {"attack": {"searchers": ["sepcma"], key: value}},
                PLAN,
                f"attack.searchers: expected in place of {key}, got both.",
            )
            for key, value in (("searcher", "cma"), ("searcher_settings", {"population": 9}))
        ),
        refuse("no seed", {"seeds": []}, PLAN, "seeds: ", "at least 1 item"),
        refuse("one seed twice", {"seeds": [3, 1, 3]}, PLAN, "seeds: expected each once, got 3, 1"),
        *(
            refuse(f"a seed of {seed}", {"seeds": [0, seed]}, PLAN, "seeds.1: ", f"got {seed}")
            for seed in (-1, 2**31, True, 1.5)
        ),
        refuse("seeds as a number", {"seeds": 3}, PLAN, "seeds: ", "got 3"),
        refuse(
            "seed and seeds",
            {"seed": 0, "seeds": [0, 1]},
            PLAN,
            "seeds: expected in place of seed, got both. Leave one out.",
        ),
        refuse(
            "unknown target model",
            {"target_model": {"name": "lnet"}},
            PLAN,
            "Unknown target model 'lnet'; expected one of: ",
            "Did you mean 'lenet'?",
        ),
        refuse(
            "unknown attack preset",
            {"attack": {"preset": "ggll"}},
            PLAN,
            "Unknown attack preset 'ggll'; expected one of: ",
            "Did you mean 'ggl'?",
        ),
        refuse(
            "unknown distance",
            {"attack": {"distance": "squared_l3"}},
            PLAN,
            "distance to be one of: ",
            "squared_l2",
            "got 'squared_l3'",
        ),
        refuse("unknown control", {"controls": ["oracel"]}, PLAN, "controls.0: ", "got 'oracel'"),
        refuse("too many targets", {"targets": 1000}, PLAN, "Expected at most", "targets: 1000"),
        refuse(
            "clients without images", {"client": {"images": 0}}, PLAN, "client.images: ", "got 0"
        ),
        refuse(
            "no local step", {"client": {"local_steps": 0}}, PLAN, "client.local_steps: ", "got 0"
        ),
        *(
            refuse(
                f"a learning rate of {rate}",
                {"client": {"learning_rate": rate}},
                PLAN,
                "client.learning_rate: ",
                f"got {rate}",
            )
            for rate in (0, -0.1, float("nan"), float("inf"))
        ),
        refuse(
            "half an image",
            {"client": {"images": 1.5}},
            PLAN,
            "client.images: ",
            "integer",
            "got 1.5",
        ),
        refuse(
            "unknown key of the client",
            {"client": {"steps": 2}},
            PLAN,
            "Unknown key 'client.steps'; expected one of: images, learning_rate, local_steps",
        ),
        refuse(
            "a training that diverges",
            {"client": {"local_steps": 5, "learning_rate": 1e30}},
            PLAN,
            "Expected a finite update after 5 local steps",
            "client.learning_rate: 1e+30. Lower it.",
        ),
        refuse(
            "more images than all clients can have",
            {"client": {"images": 8}},
            PLAN,
            "Expected at most 5 targets, as many as there are clients of 8 images in the data's 40",
            "got targets: 8. Lower targets.",
        ),
        refuse(
            "more images a client than there are",
            {"client": {"images": 41}, "targets": 1},
            PLAN,
            "Expected at most 40 images a client",
            "got client.images: 41. Lower client.images.",
        ),
        refuse(
            "one client of several images for the shuffled control",
            {"client": {"images": 25}, "targets": 1},
            PLAN,
            "at least 50 private images for the shuffled control, got 40",
        ),
        refuse(
            "one image for the shuffled control",
            {"data": file("one_image"), "targets": 1},
            PLAN,
            "at least 2 private images for the shuffled control",
        ),
        refuse(
            "missing generator",
            {"generator": {"weights": "nowhere.safetensors"}},
            INPUT,
            "Expected a safetensors file at ",
            "nowhere.safetensors, found none. Check the path.",
        ),
        refuse(
            "missing target weights",
            {"target_model": {"weights": "nowhere.safetensors"}},
            INPUT,
            "nowhere.safetensors, found none. Check the path.",
        ),
        refuse("missing private images", {"data": "nowhere"}, INPUT, "nowhere, found none. Check"),
        refuse("a folder as weights", {"generator": {"weights": "."}}, INPUT, "found none"),
        refuse(
            "generator with another hash",
            {"generator": {"sha256": "0" * 64}},
            INPUT,
            f"with sha256 {'0' * 64}, got ",
            "fetch it again or correct the hash",
        ),
        refuse(
            "hash of another length", {"generator": {"sha256": "00"}}, PLAN, "generator.sha256: "
        ),
        refuse(
            "generator without its card",
            {"generator": {"weights": file("no_card")}},
            INPUT,
            "Expected a card at ",
            "no_card.json",
        ),
        refuse(
            "generator with another's card",
            {"generator": {"weights": file("another")}},
            INPUT,
            "Expected another.safetensors with sha256 ",
        ),
        refuse(
            "truncated generator",
            {"generator": {"weights": file("truncated")}},
            INPUT,
            "Expected a whole safetensors file, got a damaged one",
            "Write or fetch it again.",
        ),
        refuse("empty file", {"data": file("empty")}, INPUT, "Expected safetensors, got another"),
        refuse(
            "weights of another model",
            {"target_model": {"weights": file("incomplete")}},
            INPUT,
            "Expected weights of LeNet, but ",
            "has other ones: missing ",
        ),
        refuse(
            "private images of another shape",
            {"data": file("smaller")},
            INPUT,
            "Expected private images of the generator's shape (1, 28, 28), got (1, 14, 14)",
        ),
        refuse(
            "private images without labels",
            {"data": file("unlabelled")},
            INPUT,
            "Expected the tensors images, labels, ",
            "got no labels",
        ),
        refuse(
            "missing capture",
            ONE_CAPTURE | {"captures": ["nowhere.safetensors"]},
            INPUT,
            "nowhere.safetensors, found none. Check the path.",
        ),
        refuse(
            "capture with values that are not finite",
            ONE_CAPTURE | {"captures": [file("nonfinite")]},
            INPUT,
            "Expected an update of LeNet in ",
            "2 values of ",
            "are not finite",
        ),
        refuse(
            "capture of another shape",
            ONE_CAPTURE | {"captures": [file("misshapen")]},
            INPUT,
            "of shape (3, 2), expected (",
        ),
        refuse(
            "capture with a tensor missing",
            ONE_CAPTURE | {"captures": [file("incomplete")]},
            INPUT,
            "got: no tensor ",
        ),
        refuse(
            "captures through two defenses",
            ONE_CAPTURE
            | {
                "captures": [file("capture")],
                "defenses": [
                    {"name": name, "percent": 80} for name in ("soteria", "sparsification")
                ],
            },
            PLAN,
            "defenses: expected, with captures, the one chain they went through",
            "got 2 chains",
        ),
        refuse("one control twice", {"controls": ["oracle"] * 2}, PLAN, "expected each once"),
        refuse("no defense", {"defenses": []}, PLAN, "defenses: ", "at least 1 item"),
        refuse(
            "more targets than captures",
            {"targets": 2, "captures": [file("capture")]},
            PLAN,
            "Expected at most 1 targets, as many as there are captures, got targets: 2",
        ),
        refuse(
            "more captures than private images",
            ONE_CAPTURE | {"data": file("one_image"), "captures": [file("capture")] * 2},
            INPUT,
            "a private image for each of 2 captures, got 1",
        ),
        refuse(
            "captures of more images than there are",
            ONE_CAPTURE | {"client": {"images": 25}, "captures": [file("capture")] * 2},
            INPUT,
            "Expected 25 private images for each of 2 captures, got 40",
        ),
        *(
            refuse(f"{name} as {place}", plan, INPUT, "Expected safetensors, got ", said)
            for name, said in (
                ("torch_save", "a zip archive, as torch.save writes it, which holds a pickle"),
                ("pickle0", "another format"),
                ("pickle2", "a pickle"),
                ("pickle5", "a pickle"),
            )
            for place, plan in (
                ("a generator", {"generator": {"weights": file(name)}}),
                ("a classifier", {"classifier": {"weights": file(name)}}),
                ("target weights", {"target_model": {"weights": file(name)}}),
                ("private images", {"data": file(name)}),
                ("a capture", ONE_CAPTURE | {"captures": [file(name)]}),
            )
        ),
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_anything_is_done(
    plan, code, said, inputs, leaktune, empty, tmp_path
):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan).replace("INPUTS", str(inputs)))

    refused = leaktune("run", "--config", path)

    assert_refused(refused, code, *said)
    assert list(empty.iterdir()) == []
    assert not (inputs / "canary").exists()


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        refuse("no YAML", "targets: [1, 2", INPUT, "Expected YAML in ", "got something else"),
        refuse("no text", b"\xff\xfe\x00\x01", INPUT, "Expected YAML in ", "got something else"),
        refuse("tags of Python", "name: !!python/name:os.system x", INPUT, "Expected YAML in "),
        refuse("a list", "- none", PLAN, "Expected keys and values in ", "got a list"),
        refuse("nested without end", "name: " + "[" * 5000, INPUT, "Expected YAML in "),
        refuse("more than 1 MiB", "#" * 2**20 + "\n\n", INPUT, "at most 1 MiB, got 1048578 bytes"),
        refuse(
            "aliases that would fill the memory if printed",
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
                for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
            )
            + "name: *l",
            PLAN,
            "name: Input should be a valid string",
        ),
    ],
)
def test_a_file_that_is_no_plan_is_refused(text, code, said, leaktune, empty, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    refused = leaktune("run", "--config", path)

    assert_refused(refused, code, *said)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        refuse("missing plan", ["run", "--config", "no.yaml"], INPUT, "no.yaml, found no file"),
        refuse("missing plan to validate", ["validate", "no.yaml"], INPUT, "Check the path"),
        refuse("folder as a plan", ["validate", "."], INPUT, "found no file"),
        refuse("set without =", ["run", "--set", "targets"], PLAN, "--set key=value", "'targets'"),
        refuse("set no YAML", ["run", "--set", "targets=[1"], PLAN, "a YAML value in --set"),
        refuse("set below a value", ["run", "--set", "data.x=1"], PLAN, "'data'", "to hold keys"),
        refuse("set an unknown key", ["run", "--set", "sed=1"], PLAN, "Did you mean 'seed'?"),
        refuse("resume nothing", ["resume", "nowhere"], INPUT, "Expected a run folder at nowhere"),
        refuse("resume no run", ["resume", "."], INPUT, "it has no plan.resolved.yaml"),
        refuse("report no run", ["report", "."], INPUT, "Give the folder that a run printed"),
        refuse("sync no run", ["sync", "."], INPUT, "Expected a run folder at ."),
        refuse("list nothing known", ["list", "defences"], PLAN, "Did you mean 'defenses'?"),
        refuse("inspect nothing", ["capture", "inspect", "no"], INPUT, "found none"),
        refuse("unknown option", ["run", "--confg", "x"], PLAN, "No such option: --confg"),
        refuse("unknown command", ["rum"], PLAN, "No such command 'rum'"),
        refuse("missing argument", ["validate"], PLAN, "Missing argument"),
        refuse("unknown format", ["list", "defenses", "--format", "xml"], PLAN, "'xml' is not"),
    ],
)
def test_a_command_line_that_cannot_work_is_refused(words, code, said, leaktune, empty):
    refused = leaktune(*words)

    assert_refused(refused, code, *said)
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize("command", ["resume", "report"])
@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        refuse("no YAML", b"name: [", INPUT, "Expected YAML in ", "plan.resolved.yaml"),
        refuse("no text", b"\xff\xfe", INPUT, "Expected YAML in ", "plan.resolved.yaml"),
        refuse("empty", b"", INPUT, "Expected a plan in ", "got a NoneType"),
        refuse("unknown key", b"nam: x", PLAN, "plan.resolved.yaml", "Did you mean 'name'?"),
    ],
)
def test_a_run_folder_with_a_damaged_plan_is_refused_and_left_as_it_is(
    command, text, code, said, leaktune, tmp_path
):
    plan = make_plan({"name": "x"}, source="test")
    folder = RunFolder.create(tmp_path, "x", plan="name: x", resolved=plan.to_dict())
    folder.append_event("audit_started")
    (folder.trial_folder("any-oracle-target0") / "result.json").write_text("{}")
    (folder.path / "plan.resolved.yaml").write_bytes(text)
    before = contents(folder.path)

    refused = leaktune(command, folder.path)

    assert_refused(refused, code, *said)
    assert contents(folder.path) == before


def test_a_report_of_a_run_without_results_says_how_to_get_some(leaktune, tmp_path):
    folder = RunFolder.create(tmp_path, "x", plan="name: x", resolved={"name": "x"})
    folder.append_event("audit_started")

    assert_refused(leaktune("report", folder.path), PLAN, "Run `leaktune resume`")


def test_an_output_folder_that_cannot_be_made_is_refused(leaktune, empty):
    (empty / "taken").touch()

    refused = leaktune("run", "--output", "taken")

    assert_refused(refused, INFRASTRUCTURE, "make a run folder in taken", "--output elsewhere")


@pytest.mark.parametrize("name", ["torch_save", "pickle0", "pickle2", "nonfinite", "misshapen"])
def test_inspecting_a_capture_refuses_what_an_audit_refuses(name, inputs, leaktune):
    assert_refused(
        leaktune("capture", "inspect", inputs / f"{name}.safetensors"), INPUT, "Expected", "got"
    )
    assert not (inputs / "canary").exists()


def test_the_canary_sings_when_a_pickle_is_loaded(tmp_path):
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))

    assert (tmp_path / "canary").exists()


def assert_refused(outcome, code, *said):
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert "Traceback" not in outcome.err
    for words in said:
        assert words in outcome.err


def contents(folder):
    """Returns all files but the leases, which say that a driver was there and failed."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "drivers"
    }
