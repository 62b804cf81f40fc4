#include "buffer_cache.h"
#include "checked_allocator.h"

#include <algorithm>
#include <iterator>
#include <list>
#include <mutex>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "mlx/allocator.h"
#include "mlx/memory.h"

namespace {

using mlx::core::allocator::Buffer;

// Smaller ones are recycled by the C library.
constexpr size_t kSmallest = 1 << 17;
// A buffer may be larger than the request by one part in this many.
constexpr size_t kTightness = 4;

// Where the system has pages of this size, touching fresh memory for the first
// time and looking up its addresses cost a fraction.
constexpr size_t kLargePage = 2 << 20;

void advise_large_pages(void* data, size_t size) {
#if defined(__linux__)
  const auto start = reinterpret_cast<size_t>(data);
  const auto first = (start + kLargePage - 1) / kLargePage * kLargePage;
  const auto end = (start + size) / kLargePage * kLargePage;
  if (end > first) {
    madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
  }
#endif
}

[[noreturn]] void out_of_memory(size_t size, size_t used, size_t limit) {
  throw std::runtime_error(
      "out of memory: " + std::to_string(size) + " bytes more than the " +
      std::to_string(used) + " in use, with a limit of " + std::to_string(limit));
}

class BufferCache {
 public:
  // A kept buffer, or none after making room for a new one.
  Buffer take(size_t size) {
    std::list<Entry> evicted;
    Buffer buffer(nullptr);
    const size_t limit = mlx::core::get_memory_limit();
    {
      std::lock_guard lock(mutex_);
      const size_t held = mlx::core::get_active_memory();
      const size_t used = held > bytes_ ? held - bytes_ : 0;
      if (used + size > limit) {
        // Better than to be killed by the system.
        out_of_memory(size, used, limit);
      }
      most_used_ = std::max(most_used_, used + size);
      buffer = find(size);
      if (buffer.ptr() == nullptr) {
        // Never more in all than was once needed at the same time.
        evict(held + size > most_used_ ? held + size - most_used_ : 0, evicted);
      }
    }
    release(evicted);
    return buffer;
  }

  void give(Buffer buffer, size_t size) {
    std::lock_guard lock(mutex_);
    free_.push_front({buffer, size});
    bytes_ += size;
  }

  void clear() {
    std::list<Entry> evicted;
    {
      std::lock_guard lock(mutex_);
      evict(bytes_, evicted);
      most_used_ = 0;
    }
    release(evicted);
  }

  size_t bytes() {
    std::lock_guard lock(mutex_);
    return bytes_;
  }

 private:
  struct Entry {
    Buffer buffer;
    size_t size;
  };

  Buffer find(size_t size) {
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      const bool fits = it->size >= size && it->size <= size + size / kTightness;
      if (fits && (best == free_.end() || it->size < best->size)) {
        best = it;
      }
    }
    if (best == free_.end()) {
      return Buffer(nullptr);
    }
    const Buffer buffer = best->buffer;
    bytes_ -= best->size;
    free_.erase(best);
    return buffer;
  }

  // The oldest first: sizes that nobody asks for any more.
  void evict(size_t size, std::list<Entry>& evicted) {
    for (size_t gone = 0; gone < size && !free_.empty();) {
      gone += free_.back().size;
      bytes_ -= free_.back().size;
      evicted.splice(evicted.end(), free_, std::prev(free_.end()));
    }
  }

  static void release(const std::list<Entry>& evicted) {
    for (const auto& entry : evicted) {
      mlx::core::allocator::free(entry.buffer);
    }
  }

  std::mutex mutex_;
  std::list<Entry> free_;
  size_t bytes_ = 0;
  // Most bytes of MLX's that were in use at once.
  size_t most_used_ = 0;
};

// Never destroyed: arrays may die after everything static.
BufferCache& cache() {
  static auto* cache = new BufferCache;
  return *cache;
}

} // namespace

void allocate_cached(mlx::core::array& a) {
  const size_t size = a.nbytes();
  if (size < kSmallest) {
    a.set_data(or_out_of_memory(mlx::core::allocator::malloc(size), size));
    return;
  }
  Buffer buffer = cache().take(size);
  if (buffer.ptr() == nullptr) {
    buffer = or_out_of_memory(mlx::core::allocator::malloc(size), size);
    advise_large_pages(buffer.raw_ptr(), size);
  }
  const size_t whole = mlx::core::allocator::allocator().size(buffer);
  a.set_data(buffer, [whole](Buffer buffer) { cache().give(buffer, whole); });
}

extern "C" size_t eat_buffer_cache_bytes(void) {
  return cache().bytes();
}

extern "C" void eat_buffer_cache_clear(void) {
  cache().clear();
}
