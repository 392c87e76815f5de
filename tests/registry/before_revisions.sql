-- A home's database as Lorry 0.1 made it before there were revisions: tables and rows, no alembic_version.
BEGIN TRANSACTION;
CREATE TABLE adapter_labels (
	adapter_id INTEGER NOT NULL, 
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	CONSTRAINT pk_adapter_labels PRIMARY KEY (adapter_id, "key"), 
	CONSTRAINT fk_adapter_labels_adapter_id_adapters FOREIGN KEY(adapter_id) REFERENCES adapters (id) ON DELETE CASCADE
);
INSERT INTO "adapter_labels" VALUES(1,'team','search');
CREATE TABLE adapters (
	id INTEGER NOT NULL, 
	namespace VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	description VARCHAR NOT NULL, 
	latest_version INTEGER NOT NULL, 
	create_time DATETIME NOT NULL, 
	update_time DATETIME NOT NULL, 
	etag VARCHAR NOT NULL, 
	CONSTRAINT pk_adapters PRIMARY KEY (id), 
	CONSTRAINT uq_adapters_namespace_name UNIQUE (namespace, name)
);
INSERT INTO "adapters" VALUES(1,'default','support','Answers customers',2,'2026-11-25 02:31:20.707854','2026-11-25 02:31:20.788921','1ad5c01cd347036d');
CREATE TABLE alias_targets (
	alias_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	version_id INTEGER NOT NULL, 
	weight INTEGER NOT NULL, 
	CONSTRAINT pk_alias_targets PRIMARY KEY (alias_id, position), 
	CONSTRAINT fk_alias_targets_alias_id_aliases FOREIGN KEY(alias_id) REFERENCES aliases (id) ON DELETE CASCADE, 
	CONSTRAINT fk_alias_targets_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id) ON DELETE CASCADE
);
INSERT INTO "alias_targets" VALUES(1,0,2,1);
INSERT INTO "alias_targets" VALUES(2,0,1,1);
CREATE TABLE aliases (
	id INTEGER NOT NULL, 
	adapter_id INTEGER NOT NULL, 
	name VARCHAR NOT NULL, 
	update_time DATETIME NOT NULL, 
	etag VARCHAR NOT NULL, 
	CONSTRAINT pk_aliases PRIMARY KEY (id), 
	CONSTRAINT uq_aliases_adapter_id_name UNIQUE (adapter_id, name), 
	CONSTRAINT fk_aliases_adapter_id_adapters FOREIGN KEY(adapter_id) REFERENCES adapters (id) ON DELETE CASCADE
);
INSERT INTO "aliases" VALUES(1,1,'production','2026-11-25 02:31:20.779130','63567b5324a111ef');
INSERT INTO "aliases" VALUES(2,1,'previous','2026-11-25 02:31:20.788921','ed1cabfde91d555a');
CREATE TABLE bases (
	id INTEGER NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	display_name VARCHAR NOT NULL, 
	architecture VARCHAR NOT NULL, 
	quantization VARCHAR NOT NULL, 
	modules JSON NOT NULL, 
	max_rank INTEGER NOT NULL, 
	context_length INTEGER NOT NULL, 
	create_time DATETIME NOT NULL, 
	CONSTRAINT pk_bases PRIMARY KEY (id), 
	CONSTRAINT uq_bases_fingerprint UNIQUE (fingerprint)
);
INSERT INTO "bases" VALUES(1,'sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','tiny','LlamaForCausalLM','nf4','[["model.layers.0.self_attn.q_proj", 8, 8], ["model.layers.0.self_attn.v_proj", 8, 4], ["model.layers.1.self_attn.q_proj", 8, 8], ["model.layers.1.self_attn.v_proj", 8, 4]]',0,128,'2026-11-25 02:31:20.705853');
CREATE TABLE version_files (
	version_id INTEGER NOT NULL, 
	path VARCHAR NOT NULL, 
	digest VARCHAR NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	media_type VARCHAR NOT NULL, 
	CONSTRAINT pk_version_files PRIMARY KEY (version_id, path), 
	CONSTRAINT fk_version_files_version_id_versions FOREIGN KEY(version_id) REFERENCES versions (id) ON DELETE CASCADE
);
INSERT INTO "version_files" VALUES(1,'adapter_config.json','sha256:43a51c9436753f0fb007fcab071a4d5f1a0425a3d0d970f531382fda6c154496',102,'');
INSERT INTO "version_files" VALUES(1,'adapter_model.safetensors','sha256:86f129fd208b624f9f1498d677deb17e328bc5956a16e64e581fb16db2ab188d',1934,'');
INSERT INTO "version_files" VALUES(2,'adapter_config.json','sha256:43a51c9436753f0fb007fcab071a4d5f1a0425a3d0d970f531382fda6c154496',102,'');
INSERT INTO "version_files" VALUES(2,'adapter_model.safetensors','sha256:c0b263781b6af5b86d1302ee8096bf2512aeb97f16ee95517698f91bcc942118',1934,'');
CREATE TABLE versions (
	id INTEGER NOT NULL, 
	adapter_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	digest VARCHAR NOT NULL, 
	description VARCHAR NOT NULL, 
	base_fingerprint VARCHAR NOT NULL, 
	lineage JSON NOT NULL, 
	peft_type VARCHAR NOT NULL, 
	max_rank INTEGER NOT NULL, 
	module_count INTEGER NOT NULL, 
	parameter_count BIGINT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	rank_stabilized BOOLEAN NOT NULL, 
	create_time DATETIME NOT NULL, 
	CONSTRAINT pk_versions PRIMARY KEY (id), 
	CONSTRAINT uq_versions_adapter_id_number UNIQUE (adapter_id, number), 
	CONSTRAINT uq_versions_adapter_id_digest UNIQUE (adapter_id, digest), 
	CONSTRAINT fk_versions_adapter_id_adapters FOREIGN KEY(adapter_id) REFERENCES adapters (id) ON DELETE CASCADE
);
INSERT INTO "versions" VALUES(1,1,1,'sha256:bd2f9b47c21a831c47a35fa5905b851a2317eb11c1bdc13e1cf27f87044f3198','first','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"base_fingerprint": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "base_name": "tiny", "recipe": "", "datasets": [], "metrics": {}, "parents": [], "producer": "", "code_revision": ""}','LORA',4,4,224,896,0,'2026-11-25 02:31:20.754240');
INSERT INTO "versions" VALUES(2,1,2,'sha256:abb958604672eb3d7d260104aef1b52d9d630cabecb1bc63f5b85f75f4452aad','','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','{"base_fingerprint": "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "base_name": "tiny", "recipe": "r: 4", "datasets": [], "metrics": {"exact": 0.5}, "parents": [], "producer": "", "code_revision": ""}','LORA',4,4,224,896,0,'2026-11-25 02:31:20.768529');
CREATE INDEX ix_adapter_labels_key_value ON adapter_labels ("key", value);
CREATE INDEX ix_versions_base_fingerprint_adapter_id ON versions (base_fingerprint, adapter_id);
CREATE INDEX ix_version_files_digest ON version_files (digest);
CREATE INDEX ix_alias_targets_version_id ON alias_targets (version_id);
COMMIT;
