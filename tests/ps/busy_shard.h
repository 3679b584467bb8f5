// A shard that does not answer, for tests.
#pragma once

#include <atomic>
#include <thread>

#include "ps/local_store.h"

namespace savior {

// Keeps a store's shard 0 busy until it goes out of scope.
class BusyShard {
 public:
  explicit BusyShard(LocalStore* store) {
    store->host().thread(0).Post([this](Shard&) {
      busy_ = true;
      while (!go_) std::this_thread::yield();
      done_ = true;
    });
    while (!busy_) std::this_thread::yield();
  }
  ~BusyShard() {
    go_ = true;
    while (!done_) std::this_thread::yield();
  }
  BusyShard(const BusyShard&) = delete;
  BusyShard& operator=(const BusyShard&) = delete;

 private:
  std::atomic<bool> busy_{false};
  std::atomic<bool> go_{false};
  std::atomic<bool> done_{false};
};

}  // namespace savior
