#include "common/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/common/temp_folder.h"

namespace savior {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(Files, ReadsBackWhatWasWritten) {
  const TempFolder folder;
  for (const size_t size : {0u, 1u, 4096u, 3u << 20}) {
    const std::string bytes(size, 'x');
    ASSERT_TRUE(WriteFileAtomically(folder / "f", bytes).ok());
    const absl::StatusOr<std::string> read = ReadFile(folder / "f");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, bytes);
  }
}

TEST(Files, MissingFileIsNotFoundAndNamed) {
  const absl::Status status = ReadFile("/nonexistent/x").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_THAT(status.message(), HasSubstr("/nonexistent/x"));
  EXPECT_THAT(WriteFileAtomically("/nonexistent/x", "").message(), HasSubstr("/nonexistent/x"));
}

TEST(Files, ReadersSeeTheOldFileOrTheNewOne) {
  const TempFolder folder;
  const std::string old_bytes(100'000, 'a');
  const std::string new_bytes(50'000, 'b');
  ASSERT_TRUE(WriteFileAtomically(folder / "f", old_bytes).ok());
  std::atomic<bool> done{false};
  std::thread writer([&] {
    for (int i = 0; i < 20; ++i) {
      EXPECT_TRUE(WriteFileAtomically(folder / "f", i % 2 == 0 ? new_bytes : old_bytes).ok());
    }
    done = true;
  });
  while (!done) {
    const absl::StatusOr<std::string> read = ReadFile(folder / "f");
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_TRUE(*read == old_bytes || *read == new_bytes) << read->size();
  }
  writer.join();
}

TEST(Files, FailedReplacementKeepsTheOldFileAndLeavesNothing) {
  const TempFolder folder;
  fs::create_directory(folder / "target");
  std::ofstream(folder / "target/inside") << "x";
  EXPECT_FALSE(WriteFileAtomically(folder / "target", "new").ok());  // a folder is in the way
  EXPECT_TRUE(fs::exists(folder / "target/inside"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(Files, PublishMovesTheFolderOnce) {
  const TempFolder folder;
  fs::create_directories(folder / "part/deep/er");
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(WriteFile(folder / ("part/deep/er/" + std::to_string(i)), "y").ok());
  }
  ASSERT_TRUE(WriteFile(folder / "part/deep/file", "longer").ok());
  ASSERT_TRUE(WriteFile(folder / "part/deep/file", "x").ok());
  ASSERT_TRUE(PublishFolder(folder / "part", folder / "whole").ok());
  EXPECT_EQ(*ReadFile(folder / "whole/deep/file"), "x");
  EXPECT_EQ(*ReadFile(folder / "whole/deep/er/19"), "y");
  EXPECT_THAT(WriteFile(folder / "missing/x", "").message(), HasSubstr("missing/x"));
  EXPECT_FALSE(fs::exists(folder / "part"));
  EXPECT_TRUE(fs::exists(folder / "whole/deep/file"));
  fs::create_directory(folder / "part");
  EXPECT_TRUE(absl::IsFailedPrecondition(PublishFolder(folder / "part", folder / "whole")));
  EXPECT_TRUE(fs::exists(folder / "whole/deep/file"));
  EXPECT_TRUE(absl::IsNotFound(PublishFolder(folder / "missing", folder / "other")));
}

TEST(Files, WritableFolderIsMadeOrRefusedByName) {
  const TempFolder folder;
  EXPECT_TRUE(MakeWritableFolder(folder / "a/b/c").ok());
  EXPECT_TRUE(MakeWritableFolder(folder / "a/b/c").ok());
  EXPECT_TRUE(fs::is_empty(folder / "a/b/c"));
  std::ofstream(folder / "file") << "x";
  for (const fs::path& bad : {folder / "file", folder / "file/below", fs::path("/proc/savior")}) {
    const absl::Status status = MakeWritableFolder(bad);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(bad.string()));
  }
}

TEST(Files, RemoveAllOfNothingIsOk) {
  const TempFolder folder;
  EXPECT_TRUE(RemoveAll(folder / "missing").ok());
  fs::create_directories(folder / "a/b");
  EXPECT_TRUE(RemoveAll(folder / "a").ok());
  EXPECT_FALSE(fs::exists(folder / "a"));
}

TEST(Files, DigestOfFileIsDigestOfItsBytes) {
  const TempFolder folder;
  std::string bytes(3'000'000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7);
  ASSERT_TRUE(WriteFileAtomically(folder / "f", bytes).ok());
  EXPECT_EQ(*DigestFile(folder / "f"), DigestBytes(bytes));
  EXPECT_EQ(DigestBytes(bytes).size(), 32u);
  bytes[1'234'567] = static_cast<char>(bytes[1'234'567] ^ 1);
  EXPECT_NE(*DigestFile(folder / "f"), DigestBytes(bytes));
  // XXH3-128 of nothing, from the reference implementation: the digest is a format.
  EXPECT_EQ(DigestBytes({}), "99aa06d3014798d86001c324468d497f");
}

TEST(FileLock, IsRefusedWhileHeldAndNamesTheHolder) {
  const TempFolder folder;
  absl::StatusOr<std::unique_ptr<FileLock>> first = FileLock::Take(folder / "lock");
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = FileLock::Take(folder / "lock").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(second));
  EXPECT_THAT(second.message(), HasSubstr((folder / "lock").string()));
  EXPECT_THAT(second.message(), HasSubstr(std::to_string(::getpid())));
  first->reset();
  EXPECT_TRUE(FileLock::Take(folder / "lock").ok());
}

// Who opened the file before it was removed must not lock what others cannot find any more.
TEST(FileLock, ExcludesOthersEvenIfItsHoldersRemoveTheFile) {
  const TempFolder folder;
  std::atomic<int> holders = 0;
  std::atomic<int> together = 0;
  std::atomic<int> taken = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 3000; ++i) {
        const auto lock = FileLock::Take(folder / "lock");
        if (!lock.ok()) continue;
        ++taken;
        if (++holders > 1) ++together;
        std::this_thread::yield();
        --holders;  // others may have it as soon as the file is gone
        fs::remove(folder / "lock");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, 0);
  EXPECT_GT(taken, 0);
}

TEST(FileLock, DiesWithItsProcess) {
  const TempFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    const auto lock = FileLock::Take(folder / "lock");
    ::_exit(lock.ok() ? 0 : 1);  // no destructors: as if killed
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  EXPECT_TRUE(FileLock::Take(folder / "lock").ok());
}

}  // namespace
}  // namespace savior
