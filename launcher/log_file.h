// A run's own log: what glog writes, from now until destruction, appended to a file.
#pragma once

#include <glog/logging.h>

#include <filesystem>
#include <fstream>
#include <mutex>

namespace savior {

// Thread-safe. Lines are flushed, so that what was said before a crash is there.
class LogFile final : public google::LogSink {
 public:
  // A file that cannot be opened leaves the log to stderr alone, which is said there.
  explicit LogFile(const std::filesystem::path& path);
  ~LogFile() override;
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  using google::LogSink::send;
  void send(google::LogSeverity severity, const char* full_filename, const char* base_filename,
            int line, const google::LogMessageTime& time, const char* message,
            size_t length) override;

 private:
  std::mutex mutex_;
  std::ofstream file_;
};

}  // namespace savior
