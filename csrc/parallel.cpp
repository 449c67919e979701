#include "parallel.h"

#include "stable_abi.h"

namespace edufast {

void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(begin, end, grain, body);
}

}  // namespace edufast
