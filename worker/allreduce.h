// Sums dense gradients over the workers of a run.
#pragma once

#include <cstdint>
#include <span>

#include "common/clock.h"
#include "common/status.h"

namespace savior {

// Single-threaded. One per worker; its ranks are the workers' numbers.
class Allreduce {
 public:
  virtual ~Allreduce() = default;

  virtual uint32_t rank() const = 0;
  virtual uint32_t size() const = 0;  // workers

  // Begins to replace `values` by their sum over all workers, and returns at once. Nobody else
  // touches them before Finish has returned. All workers start the same lengths in the same order.
  // Host memory, or the device's where the implementation says so.
  virtual void Start(std::span<float> values) = 0;

  // Waits until all that was started is summed. Every worker then has the same bits, and they do
  // not change from run to run: for each value workers are added in the order of their numbers.
  // kDeadlineExceeded, kUnavailable: the message names the workers that are missing, where it can
  // tell; nothing can be summed after it.
  [[nodiscard]] virtual absl::Status Finish(Deadline deadline) = 0;

  // To other workers since the start, where the implementation counts them.
  virtual uint64_t bytes_sent() const { return 0; }
};

// Of a run with one worker: the sum is what is there.
class SoloAllreduce final : public Allreduce {
 public:
  uint32_t rank() const override { return 0; }
  uint32_t size() const override { return 1; }
  void Start(std::span<float>) override {}
  absl::Status Finish(Deadline) override { return absl::OkStatus(); }
};

}  // namespace savior
