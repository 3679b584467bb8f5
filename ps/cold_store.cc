#include "ps/cold_store.h"

#include <absl/strings/str_cat.h>
#include <glog/logging.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/listener.h>
#include <rocksdb/options.h>
#include <rocksdb/sst_file_writer.h>
#include <rocksdb/table.h>
#include <rocksdb/utilities/checkpoint.h>
#include <rocksdb/write_batch.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <system_error>
#include <utility>

#include "common/clock.h"
#include "common/failpoint.h"
#include "common/files.h"

namespace savior {
namespace {

namespace fs = std::filesystem;

#ifndef SAVIOR_NO_FAILPOINTS
std::atomic<rocksdb::Env*> cold_env = nullptr;
#endif

// Between two tries to write again after a full disk.
constexpr std::chrono::milliseconds kBetweenResumes{500};
// Free space that is worth a try, beyond what is in memory: merges need some, too.
constexpr uint64_t kSpareBytes = uint64_t{32} << 20;

// RocksDB's own MultiGet works in groups of 32; this only bounds what is pinned at a time.
constexpr size_t kGetSlice = 128;

// Rows from which on a table file of their own is worth it.
constexpr size_t kLeastFile = 4096;
#ifndef SAVIOR_NO_FAILPOINTS
std::atomic<size_t> least_file = kLeastFile;
size_t LeastFile() { return least_file; }
#else
size_t LeastFile() { return kLeastFile; }
#endif

// Incomplete: a write that would have to wait for one that found no room.
bool IsFull(const rocksdb::Status& status) { return status.IsNoSpace() || status.IsIncomplete(); }

absl::Status FromRocksDb(const rocksdb::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = status.ToString();
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (IsFull(status) || status.IsMemoryLimit()) return absl::ResourceExhaustedError(message);
  // A table file that the manifest names and that is gone or cannot be read is data lost, whatever
  // the code.
  if (status.IsPathNotFound() || status.IsIOError()) {
    return message.find(".sst") != std::string::npos ? absl::DataLossError(message)
                                                     : absl::FailedPreconditionError(message);
  }
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsInvalidArgument()) return absl::FailedPreconditionError(message);
  return absl::InternalError(message);
}

using KeyBytes = std::array<char, sizeof(uint64_t)>;

KeyBytes BigEndian(uint64_t key) {
  KeyBytes bytes;
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(key >> (56 - 8 * i));
  return bytes;
}

uint64_t FromBigEndian(const char* bytes) {
  uint64_t key = 0;
  for (size_t i = 0; i < sizeof(key); ++i) key = key << 8 | static_cast<unsigned char>(bytes[i]);
  return key;
}

rocksdb::Slice SliceOf(const KeyBytes& key) { return {key.data(), key.size()}; }

// What RocksDB has to say, to our log. Not to a file beside the database: on a full disk its writer
// meets an assertion, which Debian's library is built with, and takes the process with it.
class ProcessLog final : public rocksdb::Logger {
 public:
  explicit ProcessLog(fs::path folder) : Logger(rocksdb::WARN_LEVEL), folder_(std::move(folder)) {}

  using Logger::Logv;
  void Logv(rocksdb::InfoLogLevel level, const char* format, va_list arguments) override {
    if (level == rocksdb::HEADER_LEVEL || level < GetInfoLogLevel()) return;
    std::array<char, 1024> line;
    std::vsnprintf(line.data(), line.size(), format, arguments);
    const std::string said = absl::StrCat("cold store ", folder_.string(), ": ", line.data());
    // Its mere warnings come with every checkpoint.
    if (level >= rocksdb::ERROR_LEVEL) {
      LOG(WARNING) << said;
    } else {
      VLOG(1) << said;
    }
  }
  void Logv(const char* format, va_list arguments) override {
    Logv(rocksdb::WARN_LEVEL, format, arguments);
  }
  void LogHeader(const char* /*format*/, va_list /*arguments*/) override {}

 private:
  const fs::path folder_;
};

// After a full disk we say when RocksDB tries again (Impl::Resume). Its own thread looks for space
// every 5 s, and was seen to give up for good when a merge of table files and a write of new ones
// met the end of the disk together.
class RecoveryIsOurs final : public rocksdb::EventListener {
 public:
  void OnBackgroundError(rocksdb::BackgroundErrorReason /*reason*/,
                         rocksdb::Status* error) override {
    // A merge that found no room would be an error that lets writes through until they have to
    // wait for it, and that Resume does not clear.
    if (error->IsNoSpace() && error->severity() < rocksdb::Status::kHardError) {
      *error = rocksdb::Status(*error, rocksdb::Status::kHardError);
    }
  }
  void OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason /*reason*/, rocksdb::Status /*error*/,
                            bool* auto_recovery) override {
    *auto_recovery = false;
  }
};

rocksdb::DBOptions DbOptions(const fs::path& folder, ColdUse use) {
  rocksdb::DBOptions options;
  options.allow_mmap_reads = use == ColdUse::kLook;
  // Of every table, while its files are opened: starting 16 threads would be most of the time.
  if (use == ColdUse::kLook) options.max_file_opening_threads = 1;
#ifndef SAVIOR_NO_FAILPOINTS
  if (rocksdb::Env* const env = cold_env.load(); env != nullptr) options.env = env;
#endif
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.paranoid_checks = true;
  // Without a WAL a flush must be one cut through all tables.
  options.atomic_flush = true;
  // Unflushed rows of all tables together. Flushes happen at evictions, which come from a tier that
  // is full anyway: a larger buffer would be RAM taken from the hot tier.
  options.db_write_buffer_size = size_t{32} << 20;
  // Threads are the process's, shared by its shards; more than the default would compete with the
  // workers.
  options.max_background_jobs = 2;
  // The live database is disposable, so writes need no early sync; spreading them avoids a stall at
  // checkpoints.
  options.bytes_per_sync = uint64_t{1} << 20;
  options.stats_dump_period_sec = 0;  // nobody reads them; each database would have a timer
  options.stats_persist_period_sec = 0;
  options.info_log = std::make_shared<ProcessLog>(folder);
  options.listeners.push_back(std::make_shared<RecoveryIsOurs>());
  return options;
}

rocksdb::ColumnFamilyOptions TableOptions(ColdUse use) {
  rocksdb::BlockBasedTableOptions table;
  // Point reads of random rows: the page cache beats a block cache of the same size 1.4 to 1.9
  // times (measured, 10 M rows of 128 B), and a block cache can hide a rotten file. Index and
  // filter stay in memory per open file.
  table.no_block_cache = true;
  table.cache_index_and_filter_blocks = false;
  // New keys are looked up before their first push: the filter answers 99 of 100 of these without a
  // read.
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10, false));
  table.data_block_index_type = rocksdb::BlockBasedTableOptions::kDataBlockBinaryAndHash;
  table.checksum = rocksdb::kXXH3;
  table.format_version = 5;

  rocksdb::ColumnFamilyOptions options;
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  options.write_buffer_size = size_t{16} << 20;
  options.compression = rocksdb::kNoCompression;  // trained floats do not compress
  options.bottommost_compression = rocksdb::kNoCompression;
  options.level_compaction_dynamic_level_bytes = true;  // bounds space to about 1.1 times the rows
  options.disable_auto_compactions = use == ColdUse::kLook;
  return options;
}

rocksdb::WriteOptions NoLog() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  return options;
}

}  // namespace

struct ColdStore::Batch::Impl {
  rocksdb::WriteBatch batch;
};

ColdStore::Batch::Batch() : impl_(std::make_unique<Impl>()) {}
ColdStore::Batch::~Batch() = default;
ColdStore::Batch::Batch(Batch&&) noexcept = default;
ColdStore::Batch& ColdStore::Batch::operator=(Batch&&) noexcept = default;
size_t ColdStore::Batch::bytes() const { return impl_->batch.GetDataSize(); }

struct ColdStore::Impl {
  fs::path folder;
  std::vector<std::string> tables;
  std::unique_ptr<rocksdb::DB> db;
  std::vector<rocksdb::ColumnFamilyHandle*>
      handles;                             // [tables + 1]; the last is the default, for notes
  std::atomic<uint64_t> sorted_files = 0;  // made so far
  // Once resumed, RocksDB 7.8 writes again but takes in no files: it goes on as if it had stopped,
  // with a file number of 0, and meets an assertion.
  std::atomic<bool> resumed = false;
  std::mutex resuming;
  SteadyClock::time_point resume_after = {};  // guarded by resuming

  ~Impl() {
    for (rocksdb::ColumnFamilyHandle* handle : handles) {
      if (handle != nullptr) db->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
    }
    if (db != nullptr)
      db->Close().PermitUncheckedError();  // disposable: what is not in a checkpoint is not kept
  }

  rocksdb::ColumnFamilyHandle* notes() const { return handles.back(); }

  // `write`, a rocksdb::Status(), once more if the disk was full and is no longer.
  template <typename Write>
  rocksdb::Status Writing(Write write) {
    rocksdb::Status status = write();
    if (IsFull(status) && Resume()) status = write();
    return status;
  }

  absl::StatusOr<bool> WriteFile(uint32_t table, std::span<const uint64_t> keys,
                                 absl::FunctionRef<std::string_view(size_t)> value);

  // Lets the database take writes again after a full disk, if there is room for what it holds in
  // memory: that is written first. Any thread.
  bool Resume() {
    const std::unique_lock lock(resuming, std::try_to_lock);
    if (!lock.owns_lock() || SteadyClock::now() < resume_after) return false;
    resume_after = DeadlineIn(kBetweenResumes);
    uint64_t unwritten = 0;
    std::error_code error;
    const uintmax_t available = fs::space(folder, error).available;
    if (error ||
        !db->GetAggregatedIntProperty(rocksdb::DB::Properties::kSizeAllMemTables, &unwritten) ||
        available < unwritten + kSpareBytes) {
      return false;
    }
    resumed = true;
    const rocksdb::Status status = db->Resume();
    LOG(WARNING) << "cold store " << folder.string()
                 << ": after a full disk: " << (status.ok() ? "writing again" : status.ToString());
    return status.ok();
  }

  absl::Status Explain(const rocksdb::Status& status, uint32_t table) const {
    return Annotate(FromRocksDb(status),
                    absl::StrCat("cold store ", folder.string(), ", table ", tables[table]));
  }
  absl::Status Explain(const rocksdb::Status& status) const {
    return Annotate(FromRocksDb(status), absl::StrCat("cold store ", folder.string()));
  }
};

// WriteSorted by a table file of its own. False: the database takes none since it ran out of room.
absl::StatusOr<bool> ColdStore::Impl::WriteFile(uint32_t table, std::span<const uint64_t> keys,
                                                absl::FunctionRef<std::string_view(size_t)> value) {
  // A name for each: two callers may be at it, and after an error nobody is to sync the same file.
  const fs::path file = folder / absl::StrCat("sorted-", sorted_files++, ".tmp");
  bool full = false;
  const auto write = [&]() -> absl::Status {
    rocksdb::SstFileWriter writer(
        rocksdb::EnvOptions(),
        rocksdb::Options(DbOptions(folder, ColdUse::kLive), TableOptions(ColdUse::kLive)),
        handles[table]);
    rocksdb::Status status = writer.Open(file.string());
    for (size_t i = 0; i < keys.size() && status.ok(); ++i) {
      const KeyBytes bytes = BigEndian(keys[i]);
      const std::string_view v = value(i);
      status = writer.Put(SliceOf(bytes), {v.data(), v.size()});
    }
    if (status.ok()) status = writer.Finish();
    SAVIOR_RETURN_IF_ERROR(Explain(status, table));
    SAVIOR_FAILPOINT("sorted.before_ingest");
    rocksdb::IngestExternalFileOptions options;
    options.move_files = true;
    options.snapshot_consistency = false;  // nobody holds snapshots
    options.write_global_seqno = false;    // the file is not touched again
    status = db->IngestExternalFile(handles[table], {file.string()}, options);
    full = IsFull(status);
    return full ? absl::OkStatus() : Explain(status, table);
  };
  const absl::Status status = write();
  std::error_code ignored;
  fs::remove(file, ignored);  // RocksDB has moved it, unless it failed
  SAVIOR_RETURN_IF_ERROR(Annotate(status, "writing sorted rows"));
  return !full;
}

ColdStore::ColdStore(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ColdStore::~ColdStore() = default;

absl::StatusOr<std::unique_ptr<ColdStore>> ColdStore::Open(const fs::path& folder,
                                                           const std::vector<std::string>& tables,
                                                           ColdUse use) {
  auto impl = std::make_unique<Impl>();
  impl->folder = folder;
  impl->tables = tables;
  std::vector<rocksdb::ColumnFamilyDescriptor> families;
  families.reserve(tables.size() + 1);
  // The prefix keeps a table named "default" apart from RocksDB's own family, where the notes are.
  for (const std::string& table : tables)
    families.emplace_back("table." + table, TableOptions(use));
  families.emplace_back(rocksdb::kDefaultColumnFamilyName, TableOptions(use));
  std::error_code ignored;
  fs::create_directory(folder, ignored);  // RocksDB would, too, but warns of a missing one
  rocksdb::DB* db = nullptr;
  const rocksdb::Status opened =
      rocksdb::DB::Open(DbOptions(folder, use), folder.string(), families, &impl->handles, &db);
  impl->db.reset(db);
  if (!opened.ok()) return impl->Explain(opened);
  return std::unique_ptr<ColdStore>(new ColdStore(std::move(impl)));
}

absl::Status ColdStore::Get(uint32_t table, std::span<const uint64_t> keys,
                            absl::FunctionRef<absl::Status(size_t, std::string_view)> found) const {
  std::array<KeyBytes, kGetSlice> bytes;
  std::array<rocksdb::Slice, kGetSlice> slices;
  std::array<rocksdb::PinnableSlice, kGetSlice> values;
  std::array<rocksdb::Status, kGetSlice> statuses;
  for (size_t begin = 0; begin < keys.size(); begin += kGetSlice) {
    const size_t n = std::min(kGetSlice, keys.size() - begin);
    for (size_t i = 0; i < n; ++i) {
      bytes[i] = BigEndian(keys[begin + i]);
      slices[i] = SliceOf(bytes[i]);
    }
    impl_->db->MultiGet(rocksdb::ReadOptions(), impl_->handles[table], n, slices.data(),
                        values.data(), statuses.data(), /*sorted_input=*/true);
    absl::Status first;
    for (size_t i = 0; i < n; ++i) {
      if (first.ok() && !statuses[i].IsNotFound()) {
        first = statuses[i].ok() ? found(begin + i, values[i].ToStringView())
                                 : Annotate(impl_->Explain(statuses[i], table),
                                            absl::StrCat("reading key ", keys[begin + i]));
      }
      statuses[i].PermitUncheckedError();
      values[i].Reset();
    }
    SAVIOR_RETURN_IF_ERROR(first);
  }
  return absl::OkStatus();
}

absl::Status ColdStore::Scan(uint32_t table,
                             absl::FunctionRef<absl::Status(uint64_t, std::string_view)> row,
                             const RowRange& range) const {
  rocksdb::ReadOptions options;
  if (range.rows == UINT64_MAX) options.readahead_size = size_t{2} << 20;
  const std::unique_ptr<rocksdb::Iterator> it(
      impl_->db->NewIterator(options, impl_->handles[table]));
  const KeyBytes first = BigEndian(range.from);
  uint64_t left = range.rows;
  for (it->Seek(SliceOf(first)); left > 0 && it->Valid(); it->Next(), --left) {
    if (it->key().size() != sizeof(uint64_t)) {
      return absl::DataLossError(absl::StrCat("cold store ", impl_->folder.string(), ", table ",
                                              impl_->tables[table], ": a key of ", it->key().size(),
                                              " bytes"));
    }
    const uint64_t key = FromBigEndian(it->key().data());
    if (key > range.last) break;
    SAVIOR_RETURN_IF_ERROR(row(key, it->value().ToStringView()));
  }
  return impl_->Explain(it->status(), table);
}

absl::Status ColdStore::Put(uint32_t table, uint64_t key, std::string_view value,
                            Batch* batch) const {
  const KeyBytes bytes = BigEndian(key);
  return impl_->Explain(
      batch->impl_->batch.Put(impl_->handles[table], SliceOf(bytes), {value.data(), value.size()}),
      table);
}

absl::Status ColdStore::Delete(uint32_t table, uint64_t key, Batch* batch) const {
  const KeyBytes bytes = BigEndian(key);
  return impl_->Explain(batch->impl_->batch.Delete(impl_->handles[table], SliceOf(bytes)), table);
}

absl::Status ColdStore::Write(Batch* batch) {
  const rocksdb::Status written =
      impl_->Writing([&] { return impl_->db->Write(NoLog(), &batch->impl_->batch); });
  batch->impl_->batch.Clear();
  return Annotate(impl_->Explain(written), "writing");
}

absl::Status ColdStore::WriteSorted(uint32_t table, std::span<const uint64_t> keys,
                                    absl::FunctionRef<std::string_view(size_t)> value) {
  if (keys.size() >= LeastFile() && !impl_->resumed) {
    SAVIOR_ASSIGN_OR_RETURN(const bool written, impl_->WriteFile(table, keys, value));
    if (written) return absl::OkStatus();
  }
  Batch batch;
  for (size_t i = 0; i < keys.size(); ++i) {
    SAVIOR_RETURN_IF_ERROR(Put(table, keys[i], value(i), &batch));
  }
  return Write(&batch);
}

absl::Status ColdStore::PutNote(const std::string& name, const std::string& value) {
  const rocksdb::Status written =
      impl_->Writing([&] { return impl_->db->Put(NoLog(), impl_->notes(), name, value); });
  return Annotate(impl_->Explain(written), "writing note " + name);
}

absl::StatusOr<std::optional<std::string>> ColdStore::GetNote(const std::string& name) const {
  std::string value;
  const rocksdb::Status read = impl_->db->Get(rocksdb::ReadOptions(), impl_->notes(), name, &value);
  if (read.IsNotFound()) return std::nullopt;
  if (!read.ok()) return Annotate(impl_->Explain(read), "reading note " + name);
  return value;
}

absl::Status ColdStore::ScanNotes(
    const std::string& prefix,
    absl::FunctionRef<absl::Status(const std::string&, const std::string&)> note) const {
  const std::unique_ptr<rocksdb::Iterator> it(
      impl_->db->NewIterator(rocksdb::ReadOptions(), impl_->notes()));
  for (it->Seek(prefix); it->Valid() && it->key().starts_with(prefix); it->Next()) {
    SAVIOR_RETURN_IF_ERROR(note(it->key().ToString(), it->value().ToString()));
  }
  return Annotate(impl_->Explain(it->status()), "reading notes");
}

absl::Status ColdStore::Flush() {
  const rocksdb::Status flushed =
      impl_->Writing([&] { return impl_->db->Flush(rocksdb::FlushOptions(), impl_->handles); });
  return Annotate(impl_->Explain(flushed), "flushing");
}

absl::Status ColdStore::Checkpoint(const fs::path& folder) {
  const std::string doing = absl::StrCat("checkpoint into ", folder.string());
  // RocksDB builds in "<folder>.tmp" and refuses one that a killed process left behind.
  SAVIOR_RETURN_IF_ERROR(RemoveAll(folder.string() + ".tmp"));
  SAVIOR_FAILPOINT("checkpoint.before_flush");
  SAVIOR_RETURN_IF_ERROR(Annotate(Flush(), doing));
  SAVIOR_FAILPOINT("checkpoint.before_links");
  rocksdb::Checkpoint* raw = nullptr;
  rocksdb::Status status = rocksdb::Checkpoint::Create(impl_->db.get(), &raw);
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(raw);
  if (status.ok()) status = checkpoint->CreateCheckpoint(fs::absolute(folder).string());
  SAVIOR_RETURN_IF_ERROR(Annotate(impl_->Explain(status), doing));
  SAVIOR_FAILPOINT("checkpoint.after_links");
  return absl::OkStatus();
}

absl::Status ColdStore::Verify() const {
  return Annotate(impl_->Explain(impl_->db->VerifyChecksum()), "verifying");
}

#ifndef SAVIOR_NO_FAILPOINTS
void UseColdEnv(rocksdb::Env* env) { cold_env = env; }
size_t WriteFilesFrom(size_t rows) { return least_file.exchange(rows); }
#endif

absl::Status CloneCheckpoint(const fs::path& source, const fs::path& target) {
  const auto explain = [&](const std::error_code& error) {
    const std::string message =
        absl::StrCat("cloning ", source.string(), " to ", target.string(), ": ", error.message());
    return error == std::errc::no_space_on_device ? absl::ResourceExhaustedError(message)
                                                  : absl::FailedPreconditionError(message);
  };
  std::error_code error;
  if (!fs::exists(source / "CURRENT", error)) {
    return absl::DataLossError(absl::StrCat(source.string(), " is not a checkpoint: no CURRENT"));
  }
  fs::create_directory(target, error);
  if (error) return explain(error);
  fs::directory_iterator entry(source, error);
  while (!error && entry != fs::directory_iterator()) {
    const fs::path& from = entry->path();
    const fs::path to = target / from.filename();
    // A link fails on another file system, or on one without links: then copy.
    std::error_code not_linked = std::make_error_code(std::errc::not_supported);
    if (from.extension() == ".sst") fs::create_hard_link(from, to, not_linked);
    if (not_linked) fs::copy_file(from, to, error);
    if (!error) entry.increment(error);
  }
  return error ? explain(error) : absl::OkStatus();
}

}  // namespace savior
