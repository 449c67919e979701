"""Three sizes of the suite: ``--fast`` (``make test-fast``) takes under a minute, ``--sample``
(``make test``, and so CI) under 25 minutes with the build, and without either every test runs
(``make test-all``)."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from functools import cache
from zlib import crc32

import pytest

# Patterns of path::name below tests/, here as in what follows. Left out by --fast. Everything else
# takes two seconds at most on one core.
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
    "teachers/test_cached_faculty.py::test_*ranks_*",
    "teachers/test_sharding.py::test_[aw]*",
    "training/test_checks.py::test_a_school_*",
    "training/test_equality.py::test_[!t]*",
    "training/test_equality.py::test_two_*",
    "training/test_school.py::test_a_teacher_without_numbers_*",
    "utils/test_collectives.py::*",
    "utils/test_ranks.py::test_[enotw]*",
    "utils/test_ranks.py::test_a_rank_that_*",
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

# Left out by --sample: each takes from a quarter of a minute to a minute, and repeats at full
# length what shorter tests show.
THOROUGH = (
    "bench/test_export.py::test_results_*",
    "cli/test_common.py::test_processes_in_a_locale_without_*",
    "cli/test_export.py::test_early_exits_*",
    "cli/test_pipeline.py::test_what_is_done_is_not_done_again_*",
    "cli/test_ranks.py::test_a_cache_*",
    "cli/test_torchrun.py::test_processes_restart_*",
    "cli/test_train.py::test_a_run_in_a_relative_place_*",
    "cli/test_train.py::test_ctrl_c_leaves_a_run_*",
    "edge/test_bundle.py::test_a_file_for_executorch_*",
    "edge/test_bundle.py::test_a_model_is_replayed_alone_*",
    "edge/test_one_image.py::test_quantising_again_*",
    "edge/test_trained.py::test_a_file_that_prepares_pictures_wrongly_*",
    "experiments/test_run.py::test_without_dali_*",
    "experiments/test_sweep.py::test_processes_that_share_*",
    "ops/test_kd_loss_accuracy.py::test_triton_*",
    "test_examples.py::test_a_program_in_cpp_*",
    "test_examples.py::test_a_graded_training_in_one_file",
    "test_examples.py::test_a_notebook_*",
    "test_gpu_check.py::test_every_part_*",
    "training/test_step.py::test_one_compile_a_grade_beyond_dynamos_limit",
)

# Of the cases of these, --sample takes the first and about a third of the others: grids that
# emulate a GPU or compile for each case.
SAMPLED = (
    "cli/test_train.py::test_a_signal_*",
    "experiments/test_shipped_recipes.py::test_runs_*",
    "models/test_architectures.py::test_cuts_*",
    "models/test_cutting.py::test_fragments_*",
    "ops/test_*_cuda.py::*",
    "ops/test_*_triton.py::*",
    "ops/test_augment_build.py::test_no_spills_*",
    "ops/test_merge_build.py::test_no_spills_*",
    "ops/test_numbers_compile.py::*",
    "ops/test_soft_labels.py::*",
    "test_examples.py::test_two_experts_*",
    "utils/test_extras.py::test_without_extras_the_python_interface_*",
)
SHARE = 3


def pytest_addoption(parser: pytest.Parser) -> None:
    sizes = parser.getgroup("edufast", "sizes of the suite (tests/tiers.py)")
    sizes.addoption("--fast", action="store_true", help="no slow test, one case of every other")
    sizes.addoption(
        "--sample",
        action="store_true",
        help=f"no thorough test, and one case in {SHARE} of those that have many costly ones",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if fits(item.nodeid, SLOW):
            item.add_marker("slow")
    if config.getoption("--fast"):
        _keep(config, items, lambda node, first: first and not fits(node, SLOW))
    elif config.getoption("--sample"):
        _keep(config, items, sampled)


def fits(node: str, patterns: tuple[str, ...]) -> bool:
    """Whether the test of a node is one of ``patterns``."""
    return _fits(_test(node), patterns)


@cache  # thousands of cases have a few hundred names
def _fits(test: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(test, pattern) for pattern in patterns)


def sampled(node: str, first: bool) -> bool:
    """Whether ``--sample`` takes a case, which may be the first one of its test. By a hash, since a
    fixed step through a grid would leave out whole rows of it."""
    if fits(node, THOROUGH):
        return False
    return first or not fits(node, SAMPLED) or crc32(node.encode()) % SHARE == 0


def _keep(
    config: pytest.Config, items: list[pytest.Item], wanted: Callable[[str, bool], bool]
) -> None:
    seen: set[str] = set()
    kept, left_out = [], []
    for item in items:
        test = _test(item.nodeid)
        (kept if wanted(item.nodeid, test not in seen) else left_out).append(item)
        seen.add(test)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def _test(node: str) -> str:
    return node.removeprefix("tests/").partition("[")[0]
