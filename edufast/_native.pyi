version: str
torch: str
torch_target: str
cuda: str
cxx: str
cpu_isas: str
sanitize: str

def kd_loss_plan(
    rows: int,
    classes: int,
    teachers: int,
    half: bool,
    processors: int,
    shared_per_processor: int,
    shared_per_block: int,
) -> dict[str, int]: ...
