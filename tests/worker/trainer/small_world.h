// A small generated log, and a model for it with every source of randomness in use.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "common/config.h"
#include "tests/common/temp_folder.h"
#include "worker/data/batch.h"
#include "worker/data/generate.h"
#include "worker/data/prepare.h"
#include "worker/data/training_log.h"

namespace savior {

inline constexpr Period kWholeLog = {.from = 0, .until = int64_t{1} << 40};

inline std::unique_ptr<TrainingLog> MakeSmallLog(const TempFolder& folder) {
  GenerateOptions options;
  options.out = folder / "raw";
  options.users = 30;
  options.items = 60;
  options.days = 8;
  options.candidates = 6;
  options.clusters = 6;
  options.vector_dim = 16;
  options.no_vector = 0.1;
  EXPECT_TRUE(Generate(options).ok());
  EXPECT_TRUE(Prepare({.raw = folder / "raw", .out = folder / "log"}).ok());
  auto log = TrainingLog::Open(folder / "log");
  EXPECT_TRUE(log.ok()) << log.status();
  return log.ok() ? std::move(*log) : nullptr;
}

inline Config SmallModel(const std::string& arm = "savior") {
  Config config;
  config.model.arm = arm;
  config.model.id_dim = 8;
  config.model.feature_dim = 4;
  config.model.attention_hidden = 4;
  config.model.dnn = "16";
  config.model.tower = "8";
  config.model.fusion_hidden = 8;
  config.model.id_dropout = 0.3;
  config.model.hybrid_suffix_dropout = 0.5;
  config.encoder.dim = 12;
  config.codebook.levels = 2;
  config.codebook.codes = 8;
  config.train.requests_per_batch = 16;
  config.train.shuffle_window = 50;
  config.data.max_history = 10;
  return config;
}

}  // namespace savior
