{{/*
Names, labels and ports. The names and the labels are those CoreDNS's chart gives, so that a release
of that chart can be upgraded to this one: a Deployment's selector cannot be changed.
*/}}

{{- define "clusterdns.name" -}}
{{- default "coredns" .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "clusterdns.fullname" -}}
{{- $name := default "coredns" .Values.nameOverride -}}
{{- $made := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $made .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Values written for CoreDNS's chart may call these two, in affinity and topologySpreadConstraints. */}}
{{- define "coredns.name" -}}{{ include "clusterdns.name" . }}{{- end -}}
{{- define "coredns.fullname" -}}{{ include "clusterdns.fullname" . }}{{- end -}}

{{- define "clusterdns.deployment" -}}
{{- default (include "clusterdns.fullname" .) .Values.deployment.name -}}
{{- end -}}

{{- define "clusterdns.autoscaler" -}}
{{- printf "%s-autoscaler" (include "clusterdns.fullname" .) -}}
{{- end -}}

{{- define "clusterdns.serviceAccount" -}}
{{- $made := ternary (include "clusterdns.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $made .Values.serviceAccount.name -}}
{{- end -}}

{{- define "clusterdns.clusterRole" -}}
{{- default (include "clusterdns.fullname" .) .Values.clusterRole.nameOverride -}}
{{- end -}}

{{/* What selects the Pods. Takes the root, and a suffix: "" or "-autoscaler". */}}
{{- define "clusterdns.selector" -}}
{{- $root := index . 0 }}{{ $suffix := index . 1 -}}
app.kubernetes.io/instance: {{ $root.Release.Name | quote }}
app.kubernetes.io/name: {{ print (include "clusterdns.name" $root) $suffix | quote }}
{{- if $root.Values.isClusterService }}
k8s-app: {{ print ($root.Values.k8sAppLabelOverride | default "coredns" | trunc 63 | trimSuffix "-") $suffix | quote }}
{{- end }}
{{- end -}}

{{/*
The labels of an object, each once. Takes the root, a suffix and a dict of more labels, which win.
*/}}
{{- define "clusterdns.labels" -}}
{{- $root := index . 0 -}}
{{- $labels := include "clusterdns.selector" (list $root (index . 1)) | fromYaml -}}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service -}}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name ($root.Chart.Version | replace "+" "_")) -}}
{{- if $root.Values.isClusterService -}}
{{- $_ := set $labels "kubernetes.io/cluster-service" "true" -}}
{{- $_ := set $labels "kubernetes.io/name" "CoreDNS" -}}
{{- end -}}
{{- mustMergeOverwrite $labels (deepCopy ($root.Values.customLabels | default dict)) (deepCopy (index . 2 | default dict)) | toYaml -}}
{{- end -}}

{{/* `annotations:` of an object, or nothing. Takes the root and dicts, the last of which wins. */}}
{{- define "clusterdns.annotations" -}}
{{- $found := deepCopy ((first .).Values.customAnnotations | default dict) -}}
{{- range rest . -}}
{{- $found = mustMergeOverwrite $found (deepCopy (. | default dict)) -}}
{{- end -}}
{{- with $found -}}
annotations:
{{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}

{{/*
The ports of `servers`, each port and protocol once, as a JSON list of
{port, protocol, name, servicePort, nodePort?, hostPort?}.
*/}}
{{- define "clusterdns.ports" -}}
{{- $found := dict -}}
{{- range .Values.servers -}}
{{- $server := . -}}
{{- $port := .port | default 53 | int -}}
{{- range .zones | default (list (dict)) -}}
{{- $protocols := ternary (list "UDP") (list "UDP" "TCP") (eq (toString .use_tcp) "false") -}}
{{- if has (.scheme | default "") (list "tls://" "https://") -}}{{- $protocols = list "TCP" -}}{{- end -}}
{{- range $protocols -}}
{{- $key := printf "%05d %s" $port . -}}
{{- $entry := index $found $key | default (dict "port" $port "protocol" . "servicePort" $port) -}}
{{- range $word := list "servicePort" "nodePort" "hostPort" -}}
{{- with index $server $word -}}{{- $_ := set $entry $word (int .) -}}{{- end -}}
{{- end -}}
{{- $_ := set $found $key $entry -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $list := list -}}
{{- range $key := keys $found | sortAlpha | reverse -}}
{{- $entry := index $found $key -}}
{{- $name := printf "%s-%d" (lower $entry.protocol) (int $entry.port) -}}
{{- if and $.Values.kubeadmPorts (eq (int $entry.port) 53) -}}
{{- $name = ternary "dns" "dns-tcp" (eq $entry.protocol "UDP") -}}
{{- end -}}
{{- $_ := set $entry "name" $name -}}
{{- $list = append $list $entry -}}
{{- end -}}
{{- toJson $list -}}
{{- end -}}

{{/*
The ports at which a plugin listens for HTTP, as a JSON list. Takes the root, the plugin and its
default port; the plugin's parameter is an address.
*/}}
{{- define "clusterdns.httpPorts" -}}
{{- $wanted := index . 1 }}{{ $default := index . 2 }}{{ $found := list -}}
{{- range (index . 0).Values.servers -}}
{{- range .plugins -}}
{{- if eq .name $wanted -}}
{{- $port := regexFind "[0-9]+$" (toString (.parameters | default "")) | default $default | int -}}
{{- $found = append $found $port -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $found | uniq | toJson -}}
{{- end -}}

{{- define "clusterdns.image" -}}
{{- $tag := .tag | default .appVersion -}}
{{- .repository }}:{{ $tag }}{{ with .digest }}@{{ . }}{{ end -}}
{{- end -}}

{{/* A probe's settings without `enabled`. */}}
{{- define "clusterdns.probe" -}}
{{- omit . "enabled" | toYaml -}}
{{- end -}}
