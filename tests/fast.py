"""Which tests are slow, and which of the others ``--fast`` (``make test-fast``) runs."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

# Patterns of path::name below tests/. Everything else takes two seconds at most on one core.
SLOW = (
    # Starting processes: Python with torch, compilers.
    "test_examples.py::*",
    "test_gpu_check.py::test_*_part_*",
    "test_extending.py::*",
    "test_import.py::*",
    "test_distribution.py::test_the_source_archive_*",
    "test_site.py::test_it_is_built_*",
    "utils/test_extras.py::test_without_extras_*",
    "test_readme.py::test_the_example_trains_and_exports",
    "test_start.py::*",
    "ops/test_cuda_build.py::*",
    "ops/test_*_cuda.py::test_[!g]*",  # those on a GPU are skipped without one
    "ops/test_augment_build.py::*",
    "ops/test_merge_build.py::*",
    "ops/test_import.py::*",
    "ops/test_numbers.py::test_*_device_*",
    "ops/test_kd_loss_ddp.py::*",
    "ops/test_triton_offline.py::*",
    "ops/test_triton_oldest.py::*",
    "*::test_*_ctrl_c_*",
    "*::test_every_instruction_set",
    "*::test_processes_*",
    "*::test_without_a_compiler_*",
    "*::test_without_dali_*",
    "models/test_global_batch_norm.py::*",
    "training/test_checks.py::test_a_school_*",
    "training/test_equality.py::test_[!t]*",
    "training/test_equality.py::test_two_*",
    "utils/test_collectives.py::*",
    "utils/test_ranks.py::test_[enotw]*",
    # Compiling, and Triton's interpreter.
    "*::test_*_compile*",
    "*::test_compile*",
    "ops/test_numbers_compile.py::*",
    "ops/test_dist_loss_triton.py::*",
    "ops/test_min_norm_triton.py::*",
    "ops/test_kd_loss_accuracy.py::test_triton_*",
    # Training and exporting.
    "bench/train/*",
    "bench/test_export.py::*",
    "bench/test_kd_loss_model.py::*",
    "cli/test_data.py::*",
    "cli/test_demo.py::*",
    "cli/test_export.py::*",
    "cli/test_pipeline.py::*",
    "cli/test_plan.py::*",
    "cli/test_predict.py::*",
    "cli/test_ranks.py::*",
    "cli/test_torchrun.py::*",
    "cli/test_train.py::*",
    "data/test_arrays.py::test_a_training_*",
    "data/test_image_files.py::test_a_run_skips_*",
    "edge/test_demo.py::*",
    "edge/test_early_exit.py::*",
    "edge/test_export.py::*",
    "edge/test_fitting.py::*",
    "edge/test_footprint.py::test_the_file_*",
    "models/test_hub_folder.py::test_the_libraries_alone_*",
    "edge/test_format.py::*",
    "edge/test_onnx_int8.py::*",
    "edge/test_predict.py::*",
    "edge/test_standalone.py::test_it_predicts_*",
    "experiments/test_answers.py::*",
    "experiments/test_best_so_far.py::*",
    "experiments/test_plan.py::*",
    "experiments/test_run.py::*",
    "experiments/test_sweep.py::*",
    "experiments/test_sweep_config.py::test_*_in_any_locale",
    "experiments/test_shipped_recipes.py::*",
    # Many files, images, networks or numbers.
    "data/test_caltech256.py::*",
    "data/test_food101.py::*",
    "data/test_glyphs.py::test_classes_are_balanced_*",
    "experiments/test_cost.py::test_every_shipped_recipe_*",
    "ops/test_merge.py::test_offsets_beyond_32_bits",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast",
        action="store_true",
        help="leave out slow tests (tests/fast.py), and of every test all cases but the first",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    first: dict[str, pytest.Item] = {}
    for item in items:
        test = item.nodeid.removeprefix("tests/").partition("[")[0]
        if any(fnmatch(test, pattern) for pattern in SLOW):
            item.add_marker("slow")
        else:
            first.setdefault(test, item)
    if config.getoption("--fast"):
        kept = list(first.values())
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
