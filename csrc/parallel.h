// Threads for the CPU kernels, which include no torch header.
#pragma once

#include <cstdint>
#include <functional>

namespace edufast {

// Calls body(begin, end) for parts of [begin, end), at least `grain` long, in torch's threads.
void parallel_for(int64_t begin, int64_t end, int64_t grain,
                  const std::function<void(int64_t, int64_t)>& body);

}  // namespace edufast
