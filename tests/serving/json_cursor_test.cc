#include "serving/json_cursor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/random.h"

namespace savior {
namespace {

using nlohmann::json;
using Kind = JsonCursor::Kind;

constexpr const char* kDocument =
    R"({"a": [1, -2, 0.5, 1e3, -0, 18446744073709551615, 1.5E-7, [], {}],
  "b": {"text": "plain", "escaped": "\"\\\/\b\f\n\r\t\u0041\u00e9\u20ac\ud83d\ude00",
        "beyond": "é€😀", "": ""}, "\u0061b": [[["x"]]], "n": [12345678901234567890123, 4e-400],
  "words": [true, false, null]})";

// Reads one value as a tree. False: it is not one that the cursor takes, or a key comes twice.
bool ReadTree(JsonCursor* at, json* tree) {
  std::string_view text;
  JsonNumber number;
  if (at->EnterObject()) {
    *tree = json::object();
    while (at->NextKey(&text)) {
      const std::string key(text);
      if (tree->contains(key) || !ReadTree(at, &(*tree)[key])) return false;
    }
    return !at->bad();
  }
  if (at->EnterList()) {
    *tree = json::array();
    while (at->NextElement()) {
      if (!ReadTree(at, &tree->emplace_back())) return false;
    }
    return !at->bad();
  }
  if (at->String(&text)) {
    *tree = text;
    return true;
  }
  if (at->Literal(&text)) {
    *tree = json::parse(text);
    return true;
  }
  if (!at->Number(&number)) return false;
  *tree = number.is_unsigned ? json(number.whole) : json(number.value);
  return true;
}

// That a cursor takes `text` where ParseJsonObject does, and reads the same.
void ExpectSameAsTree(const std::string& text, int* taken) {
  const absl::StatusOr<json> expected = ParseJsonObject(text);
  JsonCursor at(text);
  json tree;
  const bool read = at.kind() == Kind::kObject && ReadTree(&at, &tree) && at.AtEnd();
  ASSERT_EQ(read, expected.ok()) << text << "\n" << expected.status();
  if (!read) return;
  EXPECT_EQ(tree, *expected) << text;
  ++*taken;
}

TEST(JsonCursor, ReadsWhatTheTreeReads) {
  int taken = 0;
  ExpectSameAsTree(kDocument, &taken);
  ExpectSameAsTree("\xef\xbb\xbf {} \n\t\r", &taken);
  EXPECT_EQ(taken, 2);
}

TEST(JsonCursor, RefusesWhatTheTreeRefuses) {
  int taken = 0;
  for (const char* value : {"01",
                            "+1",
                            "1.",
                            ".5",
                            "1e",
                            "1e+",
                            "-",
                            "--1",
                            "0x1",
                            "1e999",
                            "NaN",
                            "nul",
                            "nullx",
                            "True",
                            "\"",
                            "\"\\",
                            "\"\\x\"",
                            "\"\\u12\"",
                            "\"\\ud800\"",
                            "\"\\ud800\\u0041\"",
                            "\"\\udc00\"",
                            "\"\t\"",
                            "\"\x80\"",
                            "\"\xc0\xaf\"",
                            "\"\xed\xa0\x80\"",
                            "\"\xf4\x90\x80\x80\"",
                            "\"\xe2\x82\"",
                            "[1,]",
                            "[,1]",
                            "[1 2]",
                            "{\"x\"}",
                            "{\"x\":}",
                            "{\"x\":1,}",
                            "{x:1}",
                            "[1",
                            "1]",
                            "1}",
                            ""}) {
    ExpectSameAsTree(std::string("{\"a\": ") + value + "}", &taken);
  }
  ExpectSameAsTree(std::string("{}\0 ", 4), &taken);
  EXPECT_EQ(taken, 0);
}

TEST(JsonCursor, OfMutatedDocumentsItReadsWhatTheTreeReads) {
  constexpr uint64_t kSeed = 20'261'127;
  Random random(kSeed);
  const std::string original = kDocument;
  int taken = 0;
  for (int i = 0; i < 40'000; ++i) {
    std::string text = original;
    for (uint64_t edits = 1 + random.Below(2); edits > 0; --edits) {
      const size_t at = random.Below(text.size());
      switch (random.Below(4)) {
        case 0:
          text[at] = static_cast<char>(random.Below(256));
          break;
        case 1:
          text.erase(at, 1 + random.Below(6));
          break;
        case 2:
          text.insert(at, text.substr(random.Below(text.size()), random.Below(12)));
          break;
        default:
          text[at] = R"({}[]",:-0e.\u)"[random.Below(13)];
      }
    }
    ExpectSameAsTree(text, &taken);
    if (testing::Test::HasFailure()) FAIL() << "seed " << kSeed << ", document " << i;
  }
  EXPECT_GT(taken, 4000);
}

TEST(JsonCursor, DescribesWhatItDidNotRead) {
  const auto description = [](const char* text) {
    JsonCursor at(text);
    std::string_view ignored;
    EXPECT_TRUE(at.EnterObject() && at.NextKey(&ignored));
    return at.Describe();
  };
  EXPECT_EQ(description(R"({"a": "x"})"), "a string");
  EXPECT_EQ(description(R"({"a": [1]})"), "a list");
  EXPECT_EQ(description(R"({"a":{}})"), "an object");
  EXPECT_EQ(description(R"({"a": null})"), "null");
  EXPECT_EQ(description(R"({"a": true})"), "true");
  EXPECT_EQ(description(R"({"a": 1e39})"), "1e+39");
  EXPECT_EQ(description(R"({"a": nul})"), "");
}

TEST(JsonCursor, BombsAreRefused) {
  const JsonLimits limits = {.depth = 2, .containers = 3, .values = 4};
  const auto taken = [&](const std::string& text) {
    JsonCursor at(text, limits);
    json tree;
    const bool read = ReadTree(&at, &tree) && at.AtEnd();
    EXPECT_EQ(read, ParseJsonObject(text, limits).ok()) << text;
    return read;
  };
  EXPECT_TRUE(taken(R"({"a": [1, 2, 3, 4]})"));
  EXPECT_FALSE(taken(R"({"a": [1, 2, 3, 4, 5]})"));
  EXPECT_FALSE(taken(R"({"a": [[]]})"));
  EXPECT_TRUE(taken(R"({"a": [], "b": []})"));
  EXPECT_FALSE(taken(R"({"a": [], "b": [], "c": []})"));
}

}  // namespace
}  // namespace savior
