#include "common/tensor_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <string>

#include "common/files.h"
#include "tests/common/temp_folder.h"

namespace savior {
namespace {

using ::testing::HasSubstr;

TensorFile Example() {
  TensorFile file;
  file.tensors["w"] = {.shape = {2, 3}, .data = {1, 2, 3, 4, 5, -6.5f}};
  file.tensors["bias"] = {.shape = {1}, .data = {0.25f}};
  file.tensors["empty"] = {.shape = {0, 7}, .data = {}};
  file.tensors["scalar"] = {.shape = {}, .data = {42}};
  file.metadata = {{"step", "17"}, {"who", "us \"quoted\""}};
  return file;
}

// A file of this header and `data_bytes` zeros.
std::string Raw(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + std::string(data_bytes, '\0');
}

class TensorFileTest : public testing::Test {
 protected:
  absl::StatusOr<TensorFile> ReadBytes(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return ReadTensorFile(path_);
  }

  const TempFolder folder_;
  const std::filesystem::path path_ = folder_ / "f.safetensors";
};

TEST_F(TensorFileTest, ReadsBackWhatWasWritten) {
  for (const TensorFile& file : {Example(), TensorFile{}}) {
    ASSERT_TRUE(WriteTensorFile(path_, file).ok());
    const absl::StatusOr<TensorFile> read = ReadTensorFile(path_);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->tensors, file.tensors);
    EXPECT_EQ(read->metadata, file.metadata);
  }
}

TEST_F(TensorFileTest, SameContentSameBytes) {
  ASSERT_TRUE(WriteTensorFile(path_, Example()).ok());
  const std::string first = *ReadFile(path_);
  ASSERT_TRUE(WriteTensorFile(path_, Example()).ok());
  EXPECT_EQ(*ReadFile(path_), first);
}

TEST_F(TensorFileTest, ReadsTheReferenceLayoutInAnyOrderOfNames) {
  std::string bytes = Raw(
      R"({"z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
      12);
  const float one = 1;
  std::memcpy(bytes.data() + bytes.size() - 12, &one, 4);
  const absl::StatusOr<TensorFile> read = ReadBytes(bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->tensors.at("z").data, std::vector<float>{1});
  EXPECT_EQ(read->tensors.at("a").data, (std::vector<float>{0, 0}));
}

TEST_F(TensorFileTest, TruncatedAtAnyByteIsDataLossAndNamed) {
  ASSERT_TRUE(WriteTensorFile(path_, Example()).ok());
  const std::string bytes = *ReadFile(path_);
  for (size_t n = 0; n < bytes.size(); ++n) {
    const absl::Status status = ReadBytes(bytes.substr(0, n)).status();
    ASSERT_TRUE(absl::IsDataLoss(status)) << n << ": " << status;
    ASSERT_THAT(status.message(), HasSubstr(path_.string()));
  }
  EXPECT_TRUE(absl::IsDataLoss(ReadBytes(bytes + "x").status()));
}

TEST_F(TensorFileTest, AnyFlippedBitInTheHeaderIsRefusedOrHarmless) {
  ASSERT_TRUE(WriteTensorFile(path_, Example()).ok());
  const std::string bytes = *ReadFile(path_);
  const size_t header_end = bytes.size() - 8 * sizeof(float);
  for (size_t i = 0; i < header_end; ++i) {
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    const absl::StatusOr<TensorFile> read = ReadBytes(flipped);  // must not crash or over-read
    EXPECT_TRUE(read.ok() || absl::IsDataLoss(read.status())) << i << read.status();
  }
}

TEST_F(TensorFileTest, MalformedFilesAreDataLoss) {
  const std::string ok = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  ASSERT_TRUE(ReadBytes(Raw(ok, 4)).ok());
  const std::pair<const char*, size_t> bad[] = {
      {"", 0},
      {"[]", 0},
      {"{", 0},
      {R"({"a":1})", 0},
      {R"({"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})", 4},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4},
      {R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0},
      {R"({"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}})", 0},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]}})", 0},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"extra":1}})", 4},
      {R"({"__metadata__":{"a":1}})", 0},
      {R"({"__metadata__":[]})", 0},
  };
  for (const auto& [header, data_bytes] : bad) {
    EXPECT_TRUE(absl::IsDataLoss(ReadBytes(Raw(header, data_bytes)).status())) << header;
  }
  EXPECT_TRUE(absl::IsDataLoss(ReadBytes(std::string(8, '\xff')).status()));
}

TEST_F(TensorFileTest, RefusesToWriteWhatIsNotATensor) {
  TensorFile file;
  file.tensors["w"] = {.shape = {2}, .data = {1}};
  EXPECT_TRUE(absl::IsInvalidArgument(WriteTensorFile(path_, file)));
  file.tensors.clear();
  file.tensors["__metadata__"] = {.shape = {1}, .data = {1}};
  EXPECT_TRUE(absl::IsInvalidArgument(WriteTensorFile(path_, file)));
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace savior
