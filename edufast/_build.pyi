version: str
torch: str
torch_target: str
cuda: str
cxx: str
cpu_isas: str
sanitize: str
