#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "common/files.h"
#include "serving/table_file.h"
#include "serving/table_layout.h"

namespace savior {

namespace fs = std::filesystem;

// A file that only grows, by way of a buffer. Deleted with the object.
class TableWriter::Spool {
 public:
  static absl::StatusOr<std::unique_ptr<Spool>> Create(const fs::path& path) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return SystemError(errno, "creating " + path.string());
    return std::unique_ptr<Spool>(new Spool(path, fd));
  }
  ~Spool() {
    ::close(fd_);
    if (!keep_) ::unlink(path_.c_str());
  }
  Spool(const Spool&) = delete;
  Spool& operator=(const Spool&) = delete;

  uint64_t bytes() const { return written_ + buffer_.size(); }
  void Keep() { keep_ = true; }

  absl::Status Add(const void* data, size_t bytes) {
    const auto* const begin = static_cast<const char*>(data);
    buffer_.insert(buffer_.end(), begin, begin + bytes);
    return buffer_.size() < kBufferBytes ? absl::OkStatus() : Flush();
  }
  absl::Status Flush() {
    for (size_t done = 0; done < buffer_.size();) {
      const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return Failed("writing");
      done += static_cast<size_t>(n);
    }
    written_ += buffer_.size();
    buffer_.clear();
    // The disk begins now, so that the sync at the end finds little left; whether it does is not
    // asked: that sync is what counts.
    if (written_ - started_ >= kStartBytes) {
      static_cast<void>(::sync_file_range(fd_, static_cast<off_t>(started_),
                                          static_cast<off_t>(written_ - started_),
                                          SYNC_FILE_RANGE_WRITE));
      started_ = written_;
    }
    return absl::OkStatus();
  }
  // Everything of `from`, which is flushed.
  absl::Status Append(const Spool& from) {
    std::vector<char> slice(kBufferBytes);
    for (uint64_t at = 0; at < from.written_;) {
      const ssize_t n = ::pread(from.fd_, slice.data(), slice.size(), static_cast<off_t>(at));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return from.Failed("reading");
      SAVIOR_RETURN_IF_ERROR(Add(slice.data(), static_cast<size_t>(n)));
      at += static_cast<uint64_t>(n);
    }
    return absl::OkStatus();
  }
  // Over the file's first bytes; flushed.
  absl::Status WriteFirst(const std::string& text) const {
    if (::pwrite(fd_, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
      return Failed("writing");
    }
    return absl::OkStatus();
  }

 private:
  static constexpr size_t kBufferBytes = size_t{1} << 18;
  static constexpr uint64_t kStartBytes = uint64_t{8} << 20;

  Spool(fs::path path, int fd) : path_(std::move(path)), fd_(fd) { buffer_.reserve(kBufferBytes); }
  absl::Status Failed(const char* doing) const {
    return SystemError(errno, fmt::format("{} {}", doing, path_.string()));
  }

  const fs::path path_;
  const int fd_;
  std::vector<char> buffer_;
  uint64_t written_ = 0;
  uint64_t started_ = 0;  // on their way to the disk
  bool keep_ = false;
};

TableWriter::TableWriter(fs::path path, std::vector<Column> columns, const TableChain* base)
    : path_(std::move(path)), columns_(std::move(columns)), base_(base), order_(columns_.size()) {
  std::iota(order_.begin(), order_.end(), 0);
  // Behind the widest, those that need most alignment come first.
  const auto widest =
      std::ranges::max_element(order_, {}, [this](size_t c) { return columns_[c].bytes(); });
  if (widest != order_.end()) std::rotate(order_.begin(), widest, widest + 1);
  if (!order_.empty()) {
    std::stable_sort(order_.begin() + 1, order_.end(), [this](size_t a, size_t b) {
      return WidthOf(columns_[a].type) > WidthOf(columns_[b].type);
    });
  }
  for (const Column& column : columns_) record_bytes_ += column.bytes();
}

TableWriter::~TableWriter() = default;

absl::StatusOr<std::unique_ptr<TableWriter>> TableWriter::Create(const fs::path& path,
                                                                 std::vector<Column> columns,
                                                                 const TableChain* base) {
  if (base != nullptr && (base->empty() || base->columns() != columns)) {
    return absl::FailedPreconditionError(
        fmt::format("{}: the base has other columns: export a full bundle", path.string()));
  }
  if (columns.empty() || columns.size() > kMaxColumns) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {} columns: must be 1 to {}", path.string(), columns.size(), kMaxColumns));
  }
  std::unique_ptr<TableWriter> writer(new TableWriter(path, std::move(columns), base));
  SAVIOR_RETURN_IF_ERROR(writer->Open());
  return writer;
}

absl::Status TableWriter::Open() {
  const auto spool = [this](const std::string& suffix) {
    return Spool::Create(path_.string() + suffix);
  };
  columns_out_.resize(columns_.size());
  for (const size_t c : order_) {
    SAVIOR_ASSIGN_OR_RETURN(columns_out_[c],
                            spool(c == order_[0] ? "" : "." + columns_[c].name + ".part"));
  }
  SAVIOR_ASSIGN_OR_RETURN(keys_out_, spool(".key.part"));
  SAVIOR_ASSIGN_OR_RETURN(index_out_, spool(".index.part"));
  SAVIOR_ASSIGN_OR_RETURN(gone_out_, spool(".gone.part"));
  if (base_ != nullptr) {
    cursor_.emplace(base_);
    base_record_.resize(record_bytes_);
  }
  const std::string room(kHeaderRoom, ' ');
  return columns_out_[order_[0]]->Add(room.data(), room.size());
}

absl::StatusOr<bool> TableWriter::PassBase(uint64_t key, std::span<const std::byte> record) {
  for (; cursor_->at() && cursor_->at()->key() < key; cursor_->Next()) {
    const uint64_t gone = cursor_->at()->key();
    SAVIOR_RETURN_IF_ERROR(gone_out_->Add(&gone, sizeof(gone)));
    ++counts_.gone;
  }
  if (!cursor_->at() || cursor_->at()->key() != key) return false;
  cursor_->at()->file->CopyRecord(cursor_->at()->row, base_record_.data());
  cursor_->Next();
  return std::ranges::equal(base_record_, record);
}

absl::Status TableWriter::Add(uint64_t key, std::span<const std::byte> record) {
  if (record.size() != record_bytes_ || (last_key_ && key <= *last_key_)) {
    return absl::InvalidArgumentError(
        fmt::format("{}: key {} after {}, {} bytes of {}: keys must ascend, records be whole",
                    path_.string(), key, last_key_.value_or(0), record.size(), record_bytes_));
  }
  last_key_ = key;
  ++counts_.total;
  if (base_ != nullptr) {
    SAVIOR_ASSIGN_OR_RETURN(const bool same, PassBase(key, record));
    if (same) return absl::OkStatus();
  }
  if (counts_.rows % kIndexed == 0) SAVIOR_RETURN_IF_ERROR(index_out_->Add(&key, sizeof(key)));
  SAVIOR_RETURN_IF_ERROR(keys_out_->Add(&key, sizeof(key)));
  const std::byte* at = record.data();
  for (size_t c = 0; c < columns_.size(); ++c) {
    SAVIOR_RETURN_IF_ERROR(columns_out_[c]->Add(at, columns_[c].bytes()));
    at += columns_[c].bytes();
  }
  ++counts_.rows;
  return absl::OkStatus();
}

std::string TableWriter::Header() const {
  using Json = nlohmann::ordered_json;
  std::string names;
  for (const Column& column : columns_) names += (names.empty() ? "" : ",") + column.name;
  Json header;
  header["__metadata__"] = {
      {"format", kTableFormat}, {"delta", base_ != nullptr ? "1" : "0"}, {"columns", names}};
  uint64_t begin = 0;
  const auto add = [&](const std::string& name, ColumnType type, Json shape, uint64_t bytes) {
    header[name] = {{"dtype", NameOf(type)},
                    {"shape", std::move(shape)},
                    {"data_offsets", {begin, begin + bytes}}};
    begin += bytes;
  };
  const auto add_column = [&](size_t c) {
    add(columns_[c].name, columns_[c].type, {counts_.rows, columns_[c].width},
        counts_.rows * columns_[c].bytes());
  };
  add_column(order_[0]);
  if (const uint64_t pad = (8 - begin % 8) % 8; pad > 0) add("pad", ColumnType::kI8, {pad}, pad);
  add("key", ColumnType::kU64, {counts_.rows}, counts_.rows * 8);
  add("index", ColumnType::kU64, {index_out_->bytes() / 8}, index_out_->bytes());
  if (base_ != nullptr) add("gone", ColumnType::kU64, {counts_.gone}, counts_.gone * 8);
  for (size_t i = 1; i < order_.size(); ++i) add_column(order_[i]);
  std::string text = header.dump();
  text.resize(kHeaderRoom - sizeof(uint64_t), ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

absl::StatusOr<TableWriter::Counts> TableWriter::Finish() {
  if (base_ != nullptr) {
    for (; cursor_->at(); cursor_->Next()) {
      const uint64_t gone = cursor_->at()->key();
      SAVIOR_RETURN_IF_ERROR(gone_out_->Add(&gone, sizeof(gone)));
      ++counts_.gone;
    }
  }
  Spool& out = *columns_out_[order_[0]];
  const std::string header = Header();
  constexpr uint64_t kNothing = 0;
  SAVIOR_RETURN_IF_ERROR(out.Add(&kNothing, (8 - out.bytes() % 8) % 8));
  std::vector<Spool*> rest = {keys_out_.get(), index_out_.get(), gone_out_.get()};
  for (size_t i = 1; i < order_.size(); ++i) rest.push_back(columns_out_[order_[i]].get());
  for (Spool* spool : rest) {
    SAVIOR_RETURN_IF_ERROR(spool->Flush());
    SAVIOR_RETURN_IF_ERROR(out.Append(*spool));
  }
  SAVIOR_RETURN_IF_ERROR(out.Flush());
  SAVIOR_RETURN_IF_ERROR(out.WriteFirst(header));
  out.Keep();
  return counts_;
}

}  // namespace savior
