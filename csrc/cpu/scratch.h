// Working memory of a thread, aligned to cache lines and not initialised.
#pragma once

#include <cstdint>
#include <new>

namespace edufast::cpu {

class Scratch {
 public:
  explicit Scratch(int64_t bytes) : data_(::operator new(bytes, kCacheLine)) {}
  ~Scratch() { ::operator delete(data_, kCacheLine); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* get() const { return data_; }

 private:
  static constexpr std::align_val_t kCacheLine{64};
  void* data_;
};

}  // namespace edufast::cpu
