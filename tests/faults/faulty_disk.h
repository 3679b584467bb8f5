// Faults between this process and its files, those of common/files.h and those of RocksDB alike.
#pragma once

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace rocksdb {
class Env;
}

namespace savior {

enum class FileOp { kRead, kWrite, kSync };

struct Fault {
  FileOp op = FileOp::kRead;
  std::string path;          // of files whose path contains this
  uint64_t nth = 1;          // the first operation of these that it befalls
  uint64_t times = 1;        // and how many in a row
  int error = EIO;           // what it ends with
  bool short_write = false;  // instead: half of the bytes are written, as write(2) may do
};

// While one exists, all files of the process that are opened from then on go through it; databases
// must be closed before it goes. Thread-safe.
class FaultyDisk {
 public:
  FaultyDisk();
  ~FaultyDisk();
  FaultyDisk(const FaultyDisk&) = delete;
  FaultyDisk& operator=(const FaultyDisk&) = delete;

  // In place of the one before; its operations are counted from here.
  void Set(const Fault& fault);
  void Clear();
  // Room for so many more bytes; then writes end short, and with ENOSPC. Nothing: without end.
  void SetRoom(std::optional<uint64_t> bytes);
  // Around every sync that succeeds: `before` it begins, what that returns after it.
  void OnSync(std::function<std::function<void()>(const std::string& path)> before);

  uint64_t faults() const;  // that happened
  // The path of the last of them.
  std::string faulty_path() const;
  // Operations of the kind on the same path after the last of them.
  uint64_t again() const;

  // For the wrappers: the error to end with, or 0.
  int Meet(FileOp op, const std::string& path);
  // Of `bytes` to write: how many are, and the error then.
  struct Written {
    uint64_t bytes;
    int error;
  };
  Written MeetWrite(const std::string& path, uint64_t bytes);
  // Runs `sync`, which returns whether it succeeded.
  void AroundSync(const std::string& path, const std::function<bool()>& sync);

 private:
  class Calls;

  bool Befalls(FileOp op, const std::string& path);  // under mutex_

  mutable std::mutex mutex_;
  std::optional<Fault> fault_;
  std::optional<uint64_t> room_;
  uint64_t met_ = 0, faults_ = 0, again_ = 0;
  std::string faulty_path_;
  std::function<std::function<void()>(const std::string&)> on_sync_;

  std::unique_ptr<Calls> calls_;
  std::unique_ptr<rocksdb::Env> env_;
};

}  // namespace savior
