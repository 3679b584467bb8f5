#include "common/config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "tests/common/temp_folder.h"

namespace savior {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ConfigTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& toml) {
    const auto path = folder_ / "c.toml";
    std::ofstream(path) << toml;
    return path.string();
  }

  absl::StatusOr<Config> Load(const std::string& toml,
                              const std::vector<std::string>& overrides = {}) {
    return LoadConfig(Write(toml), overrides);
  }

  // The refusal of `toml`, which must name the file.
  std::string Refusal(const std::string& toml) {
    const absl::Status status = Load(toml).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << toml << ": " << status;
    EXPECT_THAT(status.message(), HasSubstr("c.toml"));
    return std::string(status.message());
  }

  const TempFolder folder_;
};

std::string RefusalOf(const std::string& override) {
  const absl::Status status = LoadConfig("", {override}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << override << ": " << status;
  return std::string(status.message());
}

TEST_F(ConfigTest, CommandLineIsStrongerThanFileIsStrongerThanDefault) {
  const std::string toml = "seed = 7\n[train]\ndense_lr = 0.5\nepochs = 3\n";
  const auto config = Load(toml, {"train.dense_lr=0.25", "model.arm=base"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->seed, 7);
  EXPECT_EQ(config->train.epochs, 3);
  EXPECT_EQ(config->train.dense_lr, 0.25);
  EXPECT_EQ(config->model.arm, "base");
  Config expected;
  EXPECT_EQ(config->train.table_lr, expected.train.table_lr);
}

TEST_F(ConfigTest, WithoutFileAllAreDefaults) {
  const auto config = LoadConfig("", {});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(DifferentKeys(*config, Config{}), IsEmpty());
}

TEST_F(ConfigTest, AMissingFileIsNotFound) {
  const absl::Status status = LoadConfig((folder_ / "none.toml").string(), {}).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("none.toml"));
  EXPECT_FALSE(LoadConfig(folder_.path().string(), {}).ok());  // a folder
}

TEST_F(ConfigTest, AnUnknownKeyNamesTheNearest) {
  EXPECT_THAT(Refusal("[train]\ndense_lrr = 1.0\n"),
              AllOf(HasSubstr("train.dense_lrr"), HasSubstr("nearest is train.dense_lr")));
  EXPECT_THAT(Refusal("sead = 1\n"), HasSubstr("nearest is seed"));
  EXPECT_THAT(Refusal("[modle]\narm = \"base\"\n"), HasSubstr("nearest is model.arm"));
  EXPECT_THAT(RefusalOf("commit.every_step=5"), HasSubstr("nearest is commit.every_steps"));
  EXPECT_THAT(RefusalOf("evall.buckets.new=age_days <= 5"), HasSubstr("nearest is eval.buckets"));
}

TEST_F(ConfigTest, AnUnknownSectionIsRefusedEvenIfEmpty) {
  EXPECT_THAT(Refusal("[trian]\n"), HasSubstr("trian"));
  EXPECT_THAT(Refusal("[train.deeper]\n"), HasSubstr("train.deeper"));
  EXPECT_TRUE(Load("[train]\n").ok());
}

TEST_F(ConfigTest, AWrongTypeNamesKeyValueAndType) {
  EXPECT_THAT(Refusal("seed = \"one\"\n"), AllOf(HasSubstr("seed"), HasSubstr("an integer")));
  EXPECT_THAT(Refusal("seed = 1.5\n"), AllOf(HasSubstr("1.5"), HasSubstr("an integer")));
  EXPECT_THAT(Refusal("seed = true\n"), HasSubstr("an integer"));
  EXPECT_THAT(Refusal("[train]\ndense_lr = \"0.1\"\n"), HasSubstr("a number"));
  EXPECT_THAT(Refusal("[train]\ndense_lr = true\n"), HasSubstr("a number"));
  EXPECT_THAT(Refusal("[model]\nsimtier = 1\n"), HasSubstr("true or false"));
  EXPECT_THAT(Refusal("[data]\nraw = 5\n"), HasSubstr("a string in quotes"));
  EXPECT_THAT(Refusal("[data]\nraw = [\"a\"]\n"), HasSubstr("a string in quotes"));
  EXPECT_THAT(Refusal("[eval]\nbuckets = 3\n"), HasSubstr("must be a table"));
  EXPECT_THAT(Refusal("[eval.buckets]\nnew = 56\n"),
              AllOf(HasSubstr("eval.buckets.new"), HasSubstr("must be a string")));
  EXPECT_THAT(Refusal("train = 5\n"), HasSubstr("train"));
  EXPECT_THAT(Refusal("[seed]\nx = 1\n"), HasSubstr("seed"));
  EXPECT_THAT(RefusalOf("seed=one"), HasSubstr("seed"));
  EXPECT_THAT(RefusalOf("seed="), HasSubstr("seed"));
  EXPECT_THAT(RefusalOf("seed"), HasSubstr("must be key=value"));
  EXPECT_THAT(RefusalOf("train.dense_lr=nan"), HasSubstr("finite"));
}

TEST_F(ConfigTest, AnIntegerServesAsANumber) {
  EXPECT_EQ(Load("[train]\ndense_lr = 1\n")->train.dense_lr, 1.0);
}

TEST_F(ConfigTest, BrokenTomlNamesTheLine) {
  EXPECT_THAT(Refusal("seed = 1\n\n[train\n"), HasSubstr("c.toml:3"));
}

TEST_F(ConfigTest, TheSameKeyTwiceIsRefusedInAFile) {
  Refusal("seed = 1\nseed = 2\n");
  Refusal("[train]\nepochs = 1\n[train]\nepochs = 1\n");
}

TEST_F(ConfigTest, OfTheSameOverrideTwiceTheLastCounts) {
  EXPECT_EQ(LoadConfig("", {"seed=1", "seed=2"})->seed, 2);
}

// Every bound of every key: on it is allowed (unless excluded), beyond it is refused.
TEST_F(ConfigTest, BoundsAreChecked) {
  Config defaults;
  int64_t bounds = 0;
  for (const ConfigField& field : ConfigFields(defaults)) {
    const bool integer = std::holds_alternative<int64_t*>(field.value);
    const auto text = [&](double value) {
      return field.key + "=" +
             (integer ? fmt::format("{}", static_cast<int64_t>(value))
                      : fmt::format("{:.3f}", value));
    };
    if (std::isfinite(field.min)) {
      EXPECT_THAT(RefusalOf(text(field.min - 1)),
                  AllOf(HasSubstr(field.key), HasSubstr("must be >")));
      EXPECT_EQ(LoadConfig("", {text(field.min)}).ok(), !field.above_min) << text(field.min);
      ++bounds;
    }
    if (std::isfinite(field.max)) {
      EXPECT_THAT(RefusalOf(text(field.max + 1)),
                  AllOf(HasSubstr(field.key), HasSubstr("must be <=")));
      EXPECT_TRUE(LoadConfig("", {text(field.max)}).ok()) << text(field.max);
      ++bounds;
    }
  }
  EXPECT_GT(bounds, 60);
}

TEST_F(ConfigTest, AChoiceOutsideNamesTheNearest) {
  EXPECT_THAT(RefusalOf("model.arm=saviour"),
              AllOf(HasSubstr("must be one of base"), HasSubstr("nearest is \"savior\"")));
  EXPECT_THAT(RefusalOf("encoder.kind="), HasSubstr("must be one of"));
}

TEST_F(ConfigTest, DimensionsAreMultiplesOfFourAndSizesAreLists) {
  EXPECT_THAT(RefusalOf("model.id_dim=10"), HasSubstr("multiple of 4"));
  EXPECT_THAT(RefusalOf("encoder.dim=6"), HasSubstr("encoder.dim"));
  EXPECT_THAT(RefusalOf("model.dnn=256;128"), HasSubstr("model.dnn"));
  EXPECT_THAT(RefusalOf("model.tower=64,0"), HasSubstr("model.tower"));
  EXPECT_THAT(*ParseSizes("256,128"), ElementsAre(256, 128));
  EXPECT_THAT(*ParseSizes(""), IsEmpty());
  for (const char* bad : {",", "1,", "a", "-1", "65537", "1.5"})
    EXPECT_FALSE(ParseSizes(bad).ok()) << bad;
}

TEST_F(ConfigTest, DatesComeInOrder) {
  const std::vector<std::string> ordered = {
      "data.train_from=2017-02-20", "data.train_until=2017-10-30", "data.eval_from=2017-10-30",
      "data.eval_until=2017-11-27"};
  EXPECT_TRUE(LoadConfig("", ordered).ok());
  EXPECT_TRUE(LoadConfig("", {ordered[0], ordered[3]}).ok());  // the others not set
  std::vector<std::string> leaking = ordered;
  leaking[2] = "data.eval_from=2017-10-29";  // a day of training would be scored
  const absl::Status status = LoadConfig("", leaking).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("data.eval_from"), HasSubstr("order")));
  EXPECT_FALSE(LoadConfig("", {ordered[0], "data.eval_until=2017-02-19"}).ok());
}

TEST_F(ConfigTest, ADateIsADay) {
  EXPECT_EQ(*ParseDate("1970-01-01"), 0);
  EXPECT_EQ(*ParseDate("2017-04-30"), 1493510400);
  EXPECT_EQ(*ParseDate("2016-02-29"), 1456704000);
  for (const char* bad : {"", "2017-4-30", "2017-13-01", "2017-02-30", "30.04.2017",
                          "2017-04-30T00:00", "2017-04-3x"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseDate(bad).status())) << bad;
  }
  EXPECT_THAT(RefusalOf("data.train_from=2017-2-1"), HasSubstr("data.train_from"));
}

TEST_F(ConfigTest, BucketsComeFromFileAndCommandLine) {
  const auto config =
      Load("[eval.buckets]\nnew = \"age_days <= 56\"\nfew = \"train_exposures < 20\"\n",
           {"eval.buckets.new=age_days <= 28", "eval.buckets.popular=prior_count >= 9"});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_THAT(config->eval.bucket_order(), ElementsAre("all", "few", "new", "popular"));
  EXPECT_EQ(config->eval.buckets.at("all"), "");
  EXPECT_EQ(config->eval.buckets.at("new"), "age_days <= 28");
}

TEST_F(ConfigTest, AStringMayComeWithQuotesOnTheCommandLine) {
  EXPECT_EQ(LoadConfig("", {"data.raw=\"my data\""})->data.raw, "my data");
  EXPECT_EQ(LoadConfig("", {"data.raw=my data"})->data.raw, "my data");
  EXPECT_EQ(LoadConfig("", {"data.raw=a=b"})->data.raw, "a=b");
}

TEST_F(ConfigTest, PrefixesNeedLevelsAndKeysWithRoomForThem) {
  const auto refused = [](std::vector<std::string> overrides) {
    overrides.emplace_back("model.prefix_ngrams=true");
    return std::string(LoadConfig("", overrides).status().message());
  };
  EXPECT_THAT(refused({"codebook.levels=1"}),
              AllOf(HasSubstr("model.prefix_ngrams = true"), HasSubstr("codebook.levels = 1")));
  EXPECT_EQ(refused({"codebook.levels=5", "codebook.codes=512"}), "") << "2^45";
  EXPECT_THAT(refused({"codebook.levels=5", "codebook.codes=513"}),
              AllOf(HasSubstr("codebook.codes = 513"), HasSubstr("2^45")));
  EXPECT_EQ(refused({"codebook.levels=3", "codebook.codes=4096"}), "");
  EXPECT_THAT(refused({"refresh.remap=hungarian"}), HasSubstr("refresh.remap = \"hungarian\""));
  EXPECT_TRUE(LoadConfig("", {"refresh.remap=hungarian", "codebook.levels=1"}).ok());
}

// Gives `field` another value within its bounds.
void Change(const ConfigField& field) {
  std::visit(
      [&field](auto* value) {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, bool>) {
          *value = !*value;
        } else if constexpr (std::is_same_v<T, int64_t>) {
          *value += 4;
        } else if constexpr (std::is_same_v<T, double>) {
          *value = std::max(*value / 3 + 0.1, field.min + 0.01);
        } else if constexpr (std::is_same_v<T, std::string>) {
          if (!field.choices.empty()) {
            *value = field.choices[0] == *value ? field.choices[1] : field.choices[0];
          } else if (field.key.ends_with("_from") || field.key.ends_with("_until")) {
            *value = "2017-04-30";
          } else if (field.key == "model.dnn" || field.key == "model.tower") {
            *value = "7,9";
          } else {
            *value = "a \"quoted\" 'path' \\ with # and = and\ttabs, \u00fc";
          }
        } else {
          (*value)["a-b c"] = "age_days <= 1 and prior_count >= 2";
        }
      },
      field.value);
}

TEST_F(ConfigTest, EveryKeyGoesThroughTomlAndBack) {
  Config config;
  const std::vector<ConfigField> fields = ConfigFields(config);
  for (const ConfigField& field : fields) {
    config = Config{};
    Change(field);
    const auto read = Load(ToToml(config));
    ASSERT_TRUE(read.ok()) << field.key << ": " << read.status();
    EXPECT_THAT(DifferentKeys(*read, config), IsEmpty());
    const std::vector<std::string> changed = DifferentKeys(*read, Config{});
    ASSERT_EQ(changed.size(), 1u) << field.key;
    EXPECT_TRUE(changed[0].starts_with(field.key + " (")) << changed[0];
  }
}

TEST_F(ConfigTest, NumbersGoThroughTomlWithAllTheirBits) {
  Config config;
  for (const double value : {1.0 / 3, 1e-300, 1e22, 123456789.0, 0.1 + 0.2}) {
    config.train.dense_lr = value;
    EXPECT_EQ(Load(ToToml(config))->train.dense_lr, value);
  }
}

TEST_F(ConfigTest, DifferentKeysShowsBothValues) {
  Config a, b;
  b.seed = 2;
  b.model.arm = "base";
  EXPECT_THAT(DifferentKeys(a, b),
              ElementsAre("seed (1 | 2)", "model.arm (\"savior\" | \"base\")"));
}

TEST_F(ConfigTest, NearestIsTheSmallestEditDistance) {
  EXPECT_EQ(Nearest("abc", {"xyz", "abd", "abcde"}), "abd");
  EXPECT_EQ(Nearest("", {"long", "a"}), "a");
  EXPECT_EQ(Nearest("same", {"same", "sane"}), "same");
}

TEST_F(ConfigTest, ThePageNamesEveryKeyOnce) {
  Config config;
  const std::string page = ConfigurationPage();
  for (const ConfigField& field : ConfigFields(config)) {
    const std::string row = "| `" + field.key + "` |";
    const size_t at = page.find(row);
    ASSERT_NE(at, std::string::npos) << field.key;
    EXPECT_EQ(page.find(row, at + 1), std::string::npos) << field.key;
    EXPECT_GT(field.doc.size(), 10u) << field.key;
  }
}

TEST(Dates, AreReadAndPrintedAlike) {
  EXPECT_EQ(FormatDate(*ParseDate("2016-02-29")), "2016-02-29");
  EXPECT_EQ(FormatDate(*ParseDate("2016-02-29") + 86'399), "2016-02-29");
  EXPECT_EQ(FormatDate(-1), "1969-12-31");
}

}  // namespace
}  // namespace savior
