#include "tests/faults/faulty_disk.h"

#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "common/file_calls.h"
#include "ps/cold_store.h"

namespace savior {
namespace {

using rocksdb::FileOptions;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

IOStatus ToStatus(int error, const std::string& path) {
  if (error == 0) return IOStatus::OK();
  const std::string why = std::generic_category().message(error);
  return error == ENOSPC ? IOStatus::NoSpace(path, why) : IOStatus::IOError(path, why);
}

class WritableFile final : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  WritableFile(std::unique_ptr<rocksdb::FSWritableFile> file, std::string path, FaultyDisk* disk)
      : FSWritableFileOwnerWrapper(std::move(file)), path_(std::move(path)), disk_(*disk) {}

  IOStatus Append(const Slice& data, const IOOptions& options, IODebugContext* dbg) override {
    const FaultyDisk::Written written = disk_.MeetWrite(path_, data.size());
    const IOStatus status =
        FSWritableFileOwnerWrapper::Append({data.data(), written.bytes}, options, dbg);
    // Its own file system writes the rest of a short write by itself, so there is none here.
    return status.ok() && written.error != 0 ? ToStatus(written.error, path_) : status;
  }
  IOStatus Append(const Slice& data, const IOOptions& options,
                  const rocksdb::DataVerificationInfo& /*checksum*/, IODebugContext* dbg) override {
    return Append(data, options, dbg);
  }
  IOStatus Sync(const IOOptions& options, IODebugContext* dbg) override {
    return Around([&] { return FSWritableFileOwnerWrapper::Sync(options, dbg); });
  }
  IOStatus Fsync(const IOOptions& options, IODebugContext* dbg) override {
    return Around([&] { return FSWritableFileOwnerWrapper::Fsync(options, dbg); });
  }

 private:
  template <typename SyncCall>
  IOStatus Around(SyncCall call) {
    if (const int error = disk_.Meet(FileOp::kSync, path_); error != 0) {
      return ToStatus(error, path_);
    }
    IOStatus status;
    disk_.AroundSync(path_, [&] { return (status = call()).ok(); });
    return status;
  }

  const std::string path_;
  FaultyDisk& disk_;
};

class RandomAccessFile final : public rocksdb::FSRandomAccessFileOwnerWrapper {
 public:
  RandomAccessFile(std::unique_ptr<rocksdb::FSRandomAccessFile> file, std::string path,
                   FaultyDisk* disk)
      : FSRandomAccessFileOwnerWrapper(std::move(file)), path_(std::move(path)), disk_(*disk) {}

  IOStatus Read(uint64_t offset, size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* dbg) const override {
    const int error = disk_.Meet(FileOp::kRead, path_);
    if (error != 0) return ToStatus(error, path_);
    return FSRandomAccessFileOwnerWrapper::Read(offset, n, options, result, scratch, dbg);
  }
  IOStatus MultiRead(rocksdb::FSReadRequest* requests, size_t n, const IOOptions& options,
                     IODebugContext* dbg) override {
    const int error = disk_.Meet(FileOp::kRead, path_);
    if (error == 0) return FSRandomAccessFileOwnerWrapper::MultiRead(requests, n, options, dbg);
    for (size_t i = 0; i < n; ++i) requests[i].status = ToStatus(error, path_);
    return IOStatus::OK();
  }

 private:
  const std::string path_;
  FaultyDisk& disk_;
};

class SequentialFile final : public rocksdb::FSSequentialFileOwnerWrapper {
 public:
  SequentialFile(std::unique_ptr<rocksdb::FSSequentialFile> file, std::string path,
                 FaultyDisk* disk)
      : FSSequentialFileOwnerWrapper(std::move(file)), path_(std::move(path)), disk_(*disk) {}

  IOStatus Read(size_t n, const IOOptions& options, Slice* result, char* scratch,
                IODebugContext* dbg) override {
    const int error = disk_.Meet(FileOp::kRead, path_);
    if (error != 0) return ToStatus(error, path_);
    return FSSequentialFileOwnerWrapper::Read(n, options, result, scratch, dbg);
  }

 private:
  const std::string path_;
  FaultyDisk& disk_;
};

class Directory final : public rocksdb::FSDirectoryWrapper {
 public:
  Directory(std::unique_ptr<rocksdb::FSDirectory> folder, std::string path, FaultyDisk* disk)
      : FSDirectoryWrapper(std::move(folder)), path_(std::move(path)), disk_(*disk) {}

  IOStatus Fsync(const IOOptions& options, IODebugContext* dbg) override {
    return FsyncWithDirOptions(options, dbg, rocksdb::DirFsyncOptions());
  }
  IOStatus FsyncWithDirOptions(const IOOptions& options, IODebugContext* dbg,
                               const rocksdb::DirFsyncOptions& how) override {
    if (const int error = disk_.Meet(FileOp::kSync, path_); error != 0) {
      return ToStatus(error, path_);
    }
    IOStatus status;
    disk_.AroundSync(path_, [&] {
      status = FSDirectoryWrapper::FsyncWithDirOptions(options, dbg, how);
      return status.ok();
    });
    return status;
  }

 private:
  const std::string path_;
  FaultyDisk& disk_;
};

class FaultyFileSystem final : public rocksdb::FileSystemWrapper {
 public:
  explicit FaultyFileSystem(FaultyDisk* disk)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), disk_(disk) {}
  const char* Name() const override { return "savior.faulty"; }

  IOStatus NewWritableFile(const std::string& path, const FileOptions& options,
                           std::unique_ptr<rocksdb::FSWritableFile>* file,
                           IODebugContext* dbg) override {
    return Wrap<WritableFile>(FileSystemWrapper::NewWritableFile(path, options, file, dbg), path,
                              file);
  }
  IOStatus NewRandomAccessFile(const std::string& path, const FileOptions& options,
                               std::unique_ptr<rocksdb::FSRandomAccessFile>* file,
                               IODebugContext* dbg) override {
    return Wrap<RandomAccessFile>(FileSystemWrapper::NewRandomAccessFile(path, options, file, dbg),
                                  path, file);
  }
  IOStatus NewSequentialFile(const std::string& path, const FileOptions& options,
                             std::unique_ptr<rocksdb::FSSequentialFile>* file,
                             IODebugContext* dbg) override {
    return Wrap<SequentialFile>(FileSystemWrapper::NewSequentialFile(path, options, file, dbg),
                                path, file);
  }
  IOStatus NewDirectory(const std::string& path, const IOOptions& options,
                        std::unique_ptr<rocksdb::FSDirectory>* folder,
                        IODebugContext* dbg) override {
    return Wrap<Directory>(FileSystemWrapper::NewDirectory(path, options, folder, dbg), path,
                           folder);
  }

 private:
  template <typename Wrapper, typename File>
  IOStatus Wrap(const IOStatus& opened, const std::string& path, std::unique_ptr<File>* file) {
    if (opened.ok()) *file = std::make_unique<Wrapper>(std::move(*file), path, disk_);
    return opened;
  }

  FaultyDisk* const disk_;
};

}  // namespace

class FaultyDisk::Calls final : public FileCalls {
 public:
  explicit Calls(FaultyDisk* disk) : disk_(*disk) {}

  ssize_t Read(const std::filesystem::path& path, int fd, void* to, size_t bytes) override {
    if ((errno = disk_.Meet(FileOp::kRead, path)) != 0) return -1;
    return FileCalls::Read(path, fd, to, bytes);
  }
  ssize_t Write(const std::filesystem::path& path, int fd, const void* from,
                size_t bytes) override {
    const Written written = disk_.MeetWrite(path, bytes);
    if (written.bytes == 0 && written.error != 0) {
      errno = written.error;
      return -1;
    }
    return FileCalls::Write(path, fd, from, written.bytes);
  }
  int Sync(const std::filesystem::path& path, int fd) override {
    if ((errno = disk_.Meet(FileOp::kSync, path)) != 0) return -1;
    int result = 0;
    disk_.AroundSync(path, [&] { return (result = FileCalls::Sync(path, fd)) == 0; });
    return result;
  }

 private:
  FaultyDisk& disk_;
};

FaultyDisk::FaultyDisk()
    : calls_(std::make_unique<Calls>(this)),
      env_(rocksdb::NewCompositeEnv(std::make_shared<FaultyFileSystem>(this))) {
  UseFileCalls(calls_.get());
  UseColdEnv(env_.get());
}

FaultyDisk::~FaultyDisk() {
  UseFileCalls(nullptr);
  UseColdEnv(nullptr);
}

void FaultyDisk::Set(const Fault& fault) {
  const std::lock_guard lock(mutex_);
  fault_ = fault;
  met_ = faults_ = again_ = 0;
}

void FaultyDisk::Clear() {
  const std::lock_guard lock(mutex_);
  fault_.reset();
}

void FaultyDisk::SetRoom(std::optional<uint64_t> bytes) {
  const std::lock_guard lock(mutex_);
  room_ = bytes;
}

void FaultyDisk::OnSync(std::function<std::function<void()>(const std::string&)> before) {
  const std::lock_guard lock(mutex_);
  on_sync_ = std::move(before);
}

uint64_t FaultyDisk::faults() const {
  const std::lock_guard lock(mutex_);
  return faults_;
}

std::string FaultyDisk::faulty_path() const {
  const std::lock_guard lock(mutex_);
  return faulty_path_;
}

uint64_t FaultyDisk::again() const {
  const std::lock_guard lock(mutex_);
  return again_;
}

bool FaultyDisk::Befalls(FileOp op, const std::string& path) {
  if (!fault_ || fault_->op != op) return false;
  if (faults_ > 0 && path == faulty_path_) ++again_;
  if (path.find(fault_->path) == std::string::npos) return false;
  ++met_;
  if (met_ < fault_->nth || met_ - fault_->nth >= fault_->times) return false;
  ++faults_;
  faulty_path_ = path;
  again_ = 0;
  return true;
}

int FaultyDisk::Meet(FileOp op, const std::string& path) {
  const std::lock_guard lock(mutex_);
  return Befalls(op, path) ? fault_->error : 0;
}

FaultyDisk::Written FaultyDisk::MeetWrite(const std::string& path, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (Befalls(FileOp::kWrite, path)) {
    if (fault_->short_write) return {.bytes = std::max<uint64_t>(bytes / 2, 1), .error = 0};
    return {.bytes = 0, .error = fault_->error};
  }
  if (!room_ || *room_ >= bytes) {
    if (room_) *room_ -= bytes;
    return {.bytes = bytes, .error = 0};
  }
  ++faults_;
  faulty_path_ = path;
  return {.bytes = std::exchange(*room_, 0), .error = ENOSPC};
}

void FaultyDisk::AroundSync(const std::string& path, const std::function<bool()>& sync) {
  std::function<std::function<void()>(const std::string&)> before;
  {
    const std::lock_guard lock(mutex_);
    before = on_sync_;
  }
  const std::function<void()> after = before ? before(path) : nullptr;
  if (sync() && after) after();
}

}  // namespace savior
