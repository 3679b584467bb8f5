#include "launcher/log_file.h"

namespace savior {

LogFile::LogFile(const std::filesystem::path& path) : file_(path, std::ios::app) {
  if (!file_) LOG(ERROR) << path.string() << ": cannot be written; the log goes to stderr only";
  google::AddLogSink(this);
}

LogFile::~LogFile() { google::RemoveLogSink(this); }

void LogFile::send(google::LogSeverity severity, const char* /*full_filename*/,
                   const char* base_filename, int line, const google::LogMessageTime& time,
                   const char* message, size_t length) {
  const std::string text = ToString(severity, base_filename, line, time, message, length);
  const std::lock_guard lock(mutex_);
  file_ << text << std::endl;
  file_.clear();  // a full disk may have room again
}

}  // namespace savior
