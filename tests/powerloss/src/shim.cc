// What Rust needs of the failing file system, as plain functions.

#include <cstdint>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "failing.h"
#include "rocksdb/env.h"
#include "util/random.h"
#include "utilities/fault_injection_fs.h"

using ROCKSDB_NAMESPACE::Env;
using ROCKSDB_NAMESPACE::FaultInjectionTestFS;
using ROCKSDB_NAMESPACE::FileSystem;
using ROCKSDB_NAMESPACE::IOOptions;
using ROCKSDB_NAMESPACE::NewCompositeEnv;
using ROCKSDB_NAMESPACE::Random;
using ROCKSDB_NAMESPACE::Slice;

// As db/c.cc of this version defines it. An environment that is the default one is not deleted with its handle.
struct rocksdb_env_t {
  Env* rep;
  bool is_default;
};

struct powerloss_device {
  std::shared_ptr<powerloss::FailingFS> files;
  std::unique_ptr<Env> env;
};

// Writes a random part of what the file would have, had it been synced.
static bool keep_part(FaultInjectionTestFS& files, const std::string& path, Random& random) {
  Slice unsynced;
  int64_t synced = -1;
  std::vector<char> room(1 << 24);
  files.ReadUnsynced(path, 0, room.size(), &unsynced, room.data(), &synced);
  if (unsynced.empty()) return true;
  std::ofstream file(path, std::ios::binary | std::ios::app);
  file.write(unsynced.data(), random.Uniform(static_cast<int>(unsynced.size())));
  return file.good();
}

extern "C" {

powerloss_device* powerloss_new(bool loses_unsynced) {
  auto* device = new powerloss_device;
  device->files = std::make_shared<powerloss::FailingFS>(FileSystem::Default());
  device->files->SetInjectUnsyncedDataLoss(loses_unsynced);  // BEFORE a file is opened, or nothing is ever lost
  device->env = NewCompositeEnv(device->files);
  return device;
}

void powerloss_delete(powerloss_device* device) { delete device; }

rocksdb_env_t* powerloss_env(powerloss_device* device) {
  return new rocksdb_env_t{device->env.get(), true};
}

void powerloss_cut(powerloss_device* device) { device->files->SetFilesystemActive(false); }

void powerloss_fail(powerloss_device* device, powerloss::Fault fault) { device->files->faults().Inject(fault); }

void powerloss_hold_tables(powerloss_device* device, bool held) { device->files->faults().HoldTables(held); }

void powerloss_mend(powerloss_device* device) { device->files->faults().Mend(); }

uint64_t powerloss_met(powerloss_device* device) { return device->files->faults().Met(); }

uint64_t powerloss_calls(powerloss_device* device, powerloss::Files files, powerloss::Call call) {
  return device->files->faults().Calls(files, call);
}

// What was not synced goes. For seed 0 all of it; else the log of the store at `folder` keeps a part of it, of a length that
// the seed decides, so that its last record is torn.
bool powerloss_restore(powerloss_device* device, const char* folder, uint32_t seed) {
  auto& files = *device->files;
  files.SetFilesystemActive(true);  // BEFORE files are deleted through it
  Random random(seed == 0 ? 1 : seed);
  std::vector<std::string> names;
  bool done = files.target()->GetChildren(folder, IOOptions(), &names, nullptr).ok();
  for (const auto& name : names) {
    bool is_log = name.size() > 4 && name.compare(name.size() - 4, 4, ".log") == 0;
    if (seed != 0 && is_log) done = keep_part(files, std::string(folder) + "/" + name, random) && done;
  }
  done = files.DropUnsyncedFileData().ok() && done;
  done = files.DeleteFilesCreatedAfterLastDirSync(IOOptions(), nullptr).ok() && done;
  files.ResetState();
  return done;
}

}
